# Five-shot MMLU of the adapter that scripts/<share|lora>/finetune_alpaca_<model>_<precision>.sh made; zero-shot of a
# tiny one. Sourced, never run.
#
# The script sets   model, precision (of the base model here; `full` is 16-bit), share
# The user may set  MODEL, ADAPTER (another adapter), OUTPUT_DIR, SHARELORA_DATA, PYTHON, PRINT_COMMAND, and any flag.
# shellcheck disable=SC1090
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/common/variant.sh"
need_dependencies
source "$root/scripts/models/$model.sh"               # base

# After a tiny run the adapter itself says which model it belongs to; 32-bit numbers are faster on most CPUs; and the
# tiny model was tuned on prompts without examples.
model_name=${MODEL:-$base}
bits=16 shots=5
if [[ -n $tiny ]]; then model_name=${MODEL:-} bits=32 shots=0; fi

start "$python" "$root/eval/mmlu.py" \
  ${model_name:+--model "$model_name"} \
  --adapter "${ADAPTER:-$(result_folder "alpaca_${model}_$precision")}" \
  --output "${OUTPUT_DIR:-$(result_folder "MMLU_${model}_$precision")}" \
  --bits "$bits" --shots "$shots" --split test \
  "$@"
