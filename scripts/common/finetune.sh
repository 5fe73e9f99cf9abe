# One training run, put together from what the script says and what its model and data ask for. Sourced, never run.
#
# The script sets   data       alpaca | code | gsm8k | commonsense
#                   model      a file of scripts/models: the base model and the numbers that depend on its size
#                   precision  full (16-bit base) | 4bit (NF4 base, double quantisation)
#                   share      a | none
# The user may set  MODEL, OUTPUT_DIR, SHARELORA_DATA, NPROC, ACCELERATE, PYTHON, PRINT_COMMAND, and any flag, which wins.
# shellcheck disable=SC1090
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/common/variant.sh"
need_dependencies
source "$root/scripts/models/$model.sh"               # base, recipe, model_flags
if [[ -f $root/scripts/recipes/$data.sh ]]; then      # a data set with a recipe of its own, the same for every model
  source "$root/scripts/recipes/$data.sh"             # batch, recipe_flags, model_flags, data_flags
else
  source "$root/scripts/recipes/$recipe.sh"           # batch, recipe_flags
  source "$root/scripts/recipes/${recipe}_$data.sh"   # data_flags
fi
source "$root/scripts/common/processes.sh"            # launcher, processes

case $precision in
  full) precision_flags=(--bits 16 --bf16 true) ;;
  4bit) precision_flags=(--bits 4 --quant_type nf4 --double_quant true --bf16 true) ;;
esac

# A tiny run makes its own model and data and is short; a model that the user names is used all the same.
model_name=${MODEL:-$base}
tiny_flags=()
if [[ -n $tiny ]]; then
  model_name=${MODEL:-}
  source "$root/scripts/recipes/tiny.sh"
fi

start "${launcher[@]}" "$root/qlora_share/qlora_share.py" \
  ${model_name:+--model_name_or_path "$model_name"} \
  --output_dir "${OUTPUT_DIR:-$(result_folder "${data}_${model}_$precision")}" \
  --share "$share" \
  "${precision_flags[@]}" \
  --gradient_accumulation_steps $((batch / processes)) \
  "${recipe_flags[@]}" ${model_flags[@]+"${model_flags[@]}"} "${data_flags[@]}" ${tiny_flags[@]+"${tiny_flags[@]}"} \
  "$@"
