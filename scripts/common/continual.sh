# Alpaca, GSM8K and code learnt one after the other with one adapter, every task scored after every stage, put together
# from what the script says and what its model asks for. Sourced, never run.
#
# The script sets   model      a file of scripts/models: the base model and the numbers that depend on its size
#                   precision  full (16-bit base) | 4bit (NF4 base, double quantisation)
#                   share      a (all ways of sharing beside LoRA, one after the other) | none (LoRA alone)
# The user may set  MODEL, OUTPUT_DIR, SHARELORA_DATA, PYTHON, PRINT_COMMAND, and any flag, which wins.
# shellcheck disable=SC1090
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/common/variant.sh"
need_dependencies
source "$root/scripts/models/$model.sh"               # base, recipe, model_flags
source "$root/scripts/recipes/$recipe.sh"             # batch, recipe_flags

case $share in
  none) shares=none ;;
  *) shares=none,a,b,ab ;;
esac
case $precision in
  full) precision_flags=(--bits 16 --bf16 true) ;;
  4bit) precision_flags=(--bits 4 --quant_type nf4 --double_quant true --bf16 true) ;;
esac

# The rows that would choose a checkpoint are those that score the task, so the last one is kept.
stage_flags=(--do_eval false --eval_strategy no --load_best_model_at_end false --save_total_limit 1)

# A tiny run makes its own model and data and is short; a model that the user names is used all the same.
model_name=${MODEL:-$base}
tiny_flags=()
if [[ -n $tiny ]]; then
  model_name=${MODEL:-}
  processes=1
  source "$root/scripts/recipes/tiny.sh"
  tiny_flags+=(--max_steps 40 --save_steps 40)        # of each stage
fi

start "$python" "$root/eval/continual.py" \
  ${model_name:+--model "$model_name"} \
  --output "${OUTPUT_DIR:-$(result_folder "continual_$model")}" \
  --share "$shares" \
  "${precision_flags[@]}" \
  --gradient_accumulation_steps "$batch" \
  "${recipe_flags[@]}" ${model_flags[@]+"${model_flags[@]}"} "${stage_flags[@]}" ${tiny_flags[@]+"${tiny_flags[@]}"} \
  "$@"
