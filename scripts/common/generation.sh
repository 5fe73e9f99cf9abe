# A test that models answer in their own words, of the adapter that the training script of the same model and precision
# made: texts are generated, then scored. Sourced, never run.
#
# The script sets   test       GSM8K | HumanEval
#                   stage      generate (write the texts) | evaluate (write those that are missing, and score all)
#                   model, precision (of the base model; `full` is 16-bit, `4bit` NF4), share
# The user may set  MODEL, ADAPTER (another adapter), OUTPUT_DIR, SHARELORA_DATA, PYTHON, PRINT_COMMAND, and any flag.
# shellcheck disable=SC1090
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/common/variant.sh"
need_dependencies
source "$root/scripts/models/$model.sh"               # base
source "$root/scripts/recipes/test_$test.sh"          # data, entry, test_flags

case $precision in
  full) bits=16 ;;
  4bit) bits=4 ;;
esac

# After a tiny run the adapter itself says which model it belongs to, and 32-bit numbers are faster on most CPUs.
model_name=${MODEL:-$base}
if [[ -n $tiny ]]; then
  model_name=${MODEL:-}
  if [[ $precision == full ]]; then bits=32; fi
fi

only=false
if [[ $stage == generate ]]; then only=true; fi

start "$python" "$root/eval/$entry" \
  ${model_name:+--model "$model_name"} \
  --adapter "${ADAPTER:-$(result_folder "${data}_${model}_$precision")}" \
  --output "${OUTPUT_DIR:-$(result_folder "${test}_${model}_$precision")}" \
  --bits "$bits" "${test_flags[@]}" --generate_only "$only" \
  "$@"
