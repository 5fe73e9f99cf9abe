# A multiple-choice test of the adapter that scripts/<share|lora>/finetune_<data>_<model>_<precision>.sh made, or with
# --tiny of a tiny one. Sourced, never run.
#
# The script sets   exam       MMLU | MMLU_PRO, of the adapter tuned on Alpaca; Commonsense, of the one tuned on its tasks
#                   model      a file of scripts/models
#                   precision  of the base model: full (16-bit) | 4bit (NF4)
#                   share      a | none
# The user may set  MODEL, ADAPTER (another adapter), OUTPUT_DIR, SHARELORA_DATA, PYTHON, PRINT_COMMAND, and any flag.
# shellcheck disable=SC1090
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/common/variant.sh"
need_dependencies
source "$root/scripts/models/$model.sh"               # base

case $exam in
  MMLU) entry=mmlu.py data=alpaca exam_flags=(--shots 5 --split test) ;;
  MMLU_PRO) entry=mmlu_pro.py data=alpaca exam_flags=(--split test) ;; # five examples if there are any
  Commonsense) entry=commonsense.py data=commonsense exam_flags=() ;;
esac
case $precision in
  full) bits=16 ;;
  4bit) bits=4 ;;
esac

# After a tiny run the adapter itself says which model it belongs to; 32-bit numbers are faster on most CPUs; and the
# tiny model was tuned on prompts without examples.
model_name=${MODEL:-$base}
if [[ -n $tiny ]]; then
  model_name=${MODEL:-}
  if [[ $precision == full ]]; then bits=32; fi
  if [[ $exam == MMLU* ]]; then exam_flags=(--shots 0 --split test); fi
fi

start "$python" "$root/eval/$entry" \
  ${model_name:+--model "$model_name"} \
  --adapter "${ADAPTER:-$(result_folder "${data}_${model}_$precision")}" \
  --output "${OUTPUT_DIR:-$(result_folder "${exam}_${model}_$precision")}" \
  --bits "$bits" ${exam_flags[@]+"${exam_flags[@]}"} \
  "$@"
