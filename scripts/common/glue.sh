# One GLUE run, put together from what the script says and the task's line in its model's table. Sourced, never run.
#
# The script sets   model        a file of scripts/models, with a table of tasks of the same name in scripts/recipes
#                   task         mnli | sst2 | mrpc | cola | qnli | qqp | rte | stsb
#                   regularizer  (may be left out) rdrop | cutoff
#                   share        a | none
# The user may set  MODEL, INIT, OUTPUT_DIR, SHARELORA_DATA, NPROC, ACCELERATE, PYTHON, PRINT_COMMAND, and any flag, which wins.
#   INIT            where a task that starts from MNLI finds that adapter; otherwise the result of this model's MNLI
#                   script with the same sharing. `none` starts it from the base model.
# shellcheck disable=SC1090
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/common/variant.sh"
need_dependencies
source "$root/scripts/models/$model.sh"               # base, recipe
source "$root/scripts/recipes/$recipe.sh"             # recipe_flags
source "$root/scripts/recipes/$model.sh"              # task_table
regularizer_flags=()
if [[ -n ${regularizer:-} ]]; then source "$root/scripts/recipes/$regularizer.sh"; fi

# The task's line: start, gpus and per_gpu, and the job's flags, whose names stand in the first line.
read_task() {
  local names values i
  {
    while read -ra names && [[ ${names[0]-} != task ]]; do :; done
    while read -ra values && [[ ${values[0]-} != "$task" ]]; do :; done
  } <<<"$task_table"
  [[ ${values[0]-} == "$task" ]] || fail "found no task $task in scripts/recipes/$model.sh; need a line for it; add one"
  start=${values[1]} gpus=${values[2]} per_gpu=${values[3]}
  task_flags=()
  for ((i = 4; i < ${#names[@]}; i++)); do task_flags+=("--${names[i]}" "${values[i]}"); done
}
read_task

# As many examples per update as on the GPUs that the numbers were meant for: fewer processes take several batches each.
batch=$((gpus * per_gpu))
source "$root/scripts/common/processes.sh"            # launcher, processes
each=$((batch / processes))
accumulation=$(((each + per_gpu - 1) / per_gpu))
while ((each % accumulation)); do accumulation=$((accumulation + 1)); done

# A tiny run makes its own model and data and is short; a model that the user names is used all the same.
model_name=${MODEL:-$base}
tiny_flags=()
if [[ -n $tiny ]]; then
  model_name=${MODEL:-}
  source "$root/scripts/recipes/tiny_glue.sh"
fi

# MRPC, RTE and STS-B go on from an adapter tuned on MNLI, with a head of their own.
start_flags=()
if [[ $start != none && ${INIT:-} != none ]]; then
  init=${INIT:-$(result_folder "${model}_$start")}
  if [[ ! -d $init && -z ${PRINT_COMMAND:-} ]]; then
    fail "found no adapter $init; $task starts from one tuned on $start; run scripts/$variant/${model}_$start.sh${tiny:+ --tiny}" \
      "first, set INIT=DIR to another, or INIT=none to start from the base model"
  fi
  start_flags=(--lora_path "$init" --new_head true)
fi

start "${launcher[@]}" "$root/NLU/run_glue_share.py" \
  ${model_name:+--model_name_or_path "$model_name"} \
  --task_name "$task" \
  --output_dir "${OUTPUT_DIR:-$(result_folder "${model}_$task${regularizer:+_$regularizer}")}" \
  --share "$share" \
  --do_train true --do_eval true \
  --per_device_train_batch_size $((each / accumulation)) --gradient_accumulation_steps "$accumulation" \
  "${recipe_flags[@]}" "${task_flags[@]}" ${regularizer_flags[@]+"${regularizer_flags[@]}"} \
  ${start_flags[@]+"${start_flags[@]}"} ${tiny_flags[@]+"${tiny_flags[@]}"} \
  "$@"
