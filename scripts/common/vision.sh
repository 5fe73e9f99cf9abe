# One training run on conversations about images, put together from what the script says and what its model asks for.
# Sourced, never run.
#
# The script sets   model      a file of scripts/models: the base model and its recipe
#                   precision  full (16-bit base) | 4bit (NF4 base, double quantisation)
#                   share      a | none
# The user may set  MODEL, OUTPUT_DIR, DATA_PATH (rows in LLaVA's json), IMAGE_FOLDER, NPROC, ACCELERATE, PYTHON, PRINT_COMMAND, and
#                   any flag, which wins.
# shellcheck disable=SC1090
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/common/variant.sh"
need_dependencies
source "$root/scripts/models/$model.sh"               # base, recipe
source "$root/scripts/recipes/$recipe.sh"             # batch, recipe_flags
source "$root/scripts/common/processes.sh"            # launcher, processes

case $precision in
  full) precision_flags=(--bits 16 --bf16 true) ;;
  4bit) precision_flags=(--bits 4 --quant_type nf4 --double_quant true --bf16 true) ;;
esac

data_flags=()
if [[ -n ${DATA_PATH:-} ]]; then data_flags+=(--data_path "$DATA_PATH"); fi
if [[ -n ${IMAGE_FOLDER:-} ]]; then data_flags+=(--image_folder "$IMAGE_FOLDER"); fi

# A tiny run makes its own model and images and is short; a model that the user names is used all the same.
model_name=${MODEL:-$base}
tiny_flags=()
if [[ -n $tiny ]]; then
  model_name=${MODEL:-}
  source "$root/scripts/recipes/tiny_vision.sh"
fi

start "${launcher[@]}" "$root/qlora_share/llava_share.py" \
  ${model_name:+--model_name_or_path "$model_name"} \
  --output_dir "${OUTPUT_DIR:-$(result_folder "${model}_$precision")}" \
  --share "$share" \
  "${precision_flags[@]}" \
  --gradient_accumulation_steps $((batch / processes)) \
  "${recipe_flags[@]}" ${data_flags[@]+"${data_flags[@]}"} ${tiny_flags[@]+"${tiny_flags[@]}"} \
  "$@"
