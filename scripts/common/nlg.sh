# GPT-2 on one data set: tuned, decoded, scored, put together from what the script says. Sourced, never run.
#
# The script sets   data   e2e | webnlg | dart
#                   model  a file of scripts/models
#                   share  a | none
# The user may set  MODEL, OUTPUT_DIR, SHARELORA_DATA, NPROC, ACCELERATE, PYTHON, PRINT_COMMAND, and any flag of the tuning, which wins.
#   STAGES          some of "train decode score"; all unless set. What is there is not made again: a finished tuning (unless
#                   flags are given, which the job compares), decoded texts, scores of these texts. What was interrupted
#                   goes on where it stopped.
#   ADAPTER         what is decoded and scored, if not what was tuned here
#   DECODE_FLAGS    more flags of NLG/gpt2_beam.py
#   SCORE_FLAGS     more flags of NLG/score.py
# shellcheck disable=SC1090
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/common/variant.sh"
need_dependencies
source "$root/scripts/models/$model.sh"               # base, recipe
source "$root/scripts/recipes/$recipe.sh"             # batch, length_flags, recipe_flags, beam_flags
source "$root/scripts/recipes/${recipe}_$data.sh"     # data_flags, length_penalty, score_flags

# A tiny run makes its own model and data and is short; a model that the user names is used all the same.
model_name=${MODEL:-$base}
tiny_flags=()
if [[ -n $tiny ]]; then
  model_name=${MODEL:-}
  source "$root/scripts/recipes/tiny_nlg.sh"
fi
source "$root/scripts/common/processes.sh"            # launcher, processes

out=${OUTPUT_DIR:-$(result_folder "${model}_$data")}
texts=$out/beam
adapter=${ADAPTER:-$out}

# Run a command, or print it as `start` does, with an empty line behind it.
stage() {
  if [[ -z ${PRINT_COMMAND:-} ]]; then "$@"; else printf '%s\n' "$@" ""; fi
}

train() {
  local flag given=0
  for flag in "$@"; do [[ $flag == --tiny* ]] || given=1; done
  if [[ -f $out/completed && $given == 0 && -z ${PRINT_COMMAND:-} ]]; then
    echo "==> $out is tuned already"
    return
  fi
  stage "${launcher[@]}" "$root/NLG/gpt2_share_ft.py" \
    ${model_name:+--model_name_or_path "$model_name"} \
    --train_data "$data" \
    --output_dir "$out" \
    --share "$share" \
    --per_device_train_batch_size $((batch / processes)) \
    "${length_flags[@]}" "${recipe_flags[@]}" "${data_flags[@]}" ${tiny_flags[@]+"${tiny_flags[@]}"} \
    "$@"
}

# Without MODEL the adapter itself says which base it belongs to.
decode() {
  local from=(--adapter "$adapter" ${MODEL:+--model_name_or_path "$MODEL"})
  if [[ -z ${ADAPTER:-} && -d $out/model ]]; then from=(--adapter none --model_name_or_path "$out/model"); fi
  # shellcheck disable=SC2086
  stage "$python" "$root/NLG/gpt2_beam.py" "${from[@]}" \
    --data "$data" --split test \
    --work_dir "$texts" \
    --length_penalty "$length_penalty" "${beam_flags[@]}" \
    ${tiny:+--tiny} ${DECODE_FLAGS:-}
}

score() {
  if [[ $texts/result_nlg_score.json -nt $texts/predictions.txt && -z ${PRINT_COMMAND:-} && -z ${SCORE_FLAGS:-} ]]; then
    echo "==> $texts is scored already: result_nlg_score.json"
    return
  fi
  local made=${ADAPTER:-$out/adapter_model}
  if [[ ! -f $made/adapter_model.safetensors ]]; then made=; fi
  # shellcheck disable=SC2086
  stage "$python" "$root/NLG/score.py" --task "$data" \
    --predictions "$texts/predictions.txt" \
    --data "$data" --split test \
    --output "$texts" \
    ${made:+--adapter "$made"} \
    ${score_flags[@]+"${score_flags[@]}"} ${tiny:+--tiny} ${SCORE_FLAGS:-}
}

stages=${STAGES:-train decode score}
# A dry run makes nothing that could be decoded.
for flag in "$@"; do if [[ $flag == --dry_run ]]; then stages=train; fi; done
for name in ${stages//,/ }; do
  [[ $name =~ ^(train|decode|score)$ ]] || fail "found the stage $name in STAGES; need some of train decode score"
done
for name in ${stages//,/ }; do
  case $name in
    train)
      train "$@"
      # A signal may have ended it in good order; half an adapter is not decoded with.
      if [[ ! -f $out/completed && $stages != train && -z ${PRINT_COMMAND:-} ]]; then
        echo "==> $out is not tuned to its end; start again to go on"
        exit 0
      fi
      ;;
    *) "$name" ;;
  esac
done
