# One run: puts its command together and becomes it, prints it (PRINT_COMMAND=1), or says in one screen what it is (--help).
# Sourced by the scripts that generate.py writes, never run.
#
# The script sets   share          a | ab | none
#                   name           its results are runs/<share|lora>/NAME, or NAME_tiny after --tiny
#                   base           the base model unless MODEL names another; --tiny makes its own
#                   flags          what is particular to this script; wins over the recipe
#                   recipe         (tuning) a file of scripts/recipes, passed on with --config
#                   tiny_recipe    (tuning) a file of scripts/recipes that wins over flags and recipe after --tiny
#                   tiny_flags     more flags after --tiny
#                   start_from     (GLUE) the script whose adapter this one starts from
#                   full_flags, decode_flags, score_flags, tiny_decode_flags, tiny_score_flags   (GPT-2)
#                   tuned          (exams) the name of the results whose adapter is examined
# and calls one of  tune, tune_in_turn, tune_decode_score, examine, with the command to run and "$@".
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

help=
for word in "$@"; do
  if [[ $word == -h || $word == --help ]]; then help=1; fi
done
if [[ -z $help ]]; then need_dependencies; fi

variant=share
if [[ $share == none ]]; then variant=lora; fi

# result_folder NAME: the folder of a script's results; a tiny run never takes the place of a real one.
result_folder() {
  echo "$root/runs/$variant/$1${tiny:+_tiny}"
}

out=${OUTPUT_DIR:-$(result_folder "$name")}
# A tiny run makes its own model, and its adapter says which; a model that the user names is used all the same.
model=${MODEL:-}
if [[ -z $model && -z $tiny ]]; then model=$base; fi
# As the commands of most tunings call it.
model_flag=--model_name_or_path output_flag=--output_dir shares=$share

# read_recipe NAME: its lines, `flag: value  # why`, as flags. Sets recipe_flags.
read_recipe() {
  local line
  recipe_flags=()
  while IFS= read -r line; do
    if [[ $line =~ ^([A-Za-z0-9_]+):\ +([^#]*[^#\ ]) ]]; then recipe_flags+=("--${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"); fi
  done <"$root/scripts/recipes/$1.yaml"
}

# setting NAME: the value of the last such flag in `settings`, or nothing.
setting() {
  local i
  for ((i = ${#settings[@]} - 2; i >= 0; i--)); do
    if [[ ${settings[i]} == "--$1" ]]; then
      echo "${settings[i + 1]}"
      return
    fi
  done
}

# choose_launcher EXAMPLES: how many processes share the examples of an update, and what starts them. Reads NPROC, ACCELERATE
# (a file of scripts/accelerate without .yaml, or the path of any configuration of accelerate) and LAUNCH_FLAGS (more flags
# of `accelerate launch`). Sets processes and launcher.
choose_launcher() {
  local batch=$1 engine=${ACCELERATE:-}
  if [[ -n $engine && ! -f $engine ]]; then
    engine=$root/scripts/accelerate/$engine.yaml
    [[ -f $engine ]] || fail "found ACCELERATE=$ACCELERATE; need a file, or one of scripts/accelerate:" \
      "$(basename -s .yaml -a "$root"/scripts/accelerate/*.yaml | paste -sd ' '); change ACCELERATE"
  fi
  processes=${NPROC:-}
  if [[ -z $processes && -n $engine ]]; then processes=$(sed -n 's/^num_processes: *\([0-9]*\).*/\1/p' "$engine"); fi
  processes=${processes:-1}
  [[ $processes =~ ^[1-9][0-9]*$ ]] || fail "found NPROC=$processes; need a number of at least 1; change NPROC"
  ((batch % processes == 0)) ||
    fail "found NPROC=$processes; need a divisor of the $batch examples per update; change NPROC"

  launcher=("$python")
  if [[ -n $engine ]]; then
    launcher+=(-m accelerate.commands.launch --config_file "$engine" --num_processes "$processes")
  elif ((processes > 1)); then
    # Without --multi_gpu, one process would start where there are no GPUs, without a word; CPUs are used then.
    launcher+=(-m accelerate.commands.launch --multi_gpu --num_processes "$processes" --num_machines 1)
    launcher+=(--mixed_precision no --dynamo_backend no)
  else
    return 0
  fi
  # shellcheck disable=SC2206
  launcher+=(${LAUNCH_FLAGS:-})
}

# The flags for the adapter that this run starts from; the task needs a head of its own. Sets start_flags.
find_start() {
  start_flags=()
  if [[ -z ${start_from:-} || ${INIT:-} == none ]]; then return 0; fi
  local adapter=${INIT:-$(result_folder "$start_from")}
  if [[ ! -d $adapter && -z ${PRINT_COMMAND:-}$help ]]; then
    fail "found no adapter $adapter; ${name##*_} starts from one tuned on ${start_from##*_}; run" \
      "scripts/$variant/$start_from.sh${tiny:+ --tiny} first, set INIT=DIR to another, or INIT=none to start from the base model"
  fi
  start_flags=(--lora_path "$adapter" --new_head true)
}

# prepare_tuning ENTRY [FLAGS]: a tuning's command. Sets command, and settings, which --help reads.
prepare_tuning() {
  local entry=$1 word config changes at_once batch each accumulation
  shift
  read_recipe "$recipe"
  config=(--config "$root/scripts/recipes/$recipe.yaml")
  settings=("${recipe_flags[@]}" ${flags[@]+"${flags[@]}"})
  # A command reads one configuration file: if the user passes one, our numbers become flags and win over it.
  for word in "$@"; do if [[ $word =~ ^--config(=|$) ]]; then config=("${recipe_flags[@]}"); fi; done
  changes=(${full_flags[@]+"${full_flags[@]}"})
  if [[ -n $tiny ]]; then
    read_recipe "$tiny_recipe"
    changes=("${recipe_flags[@]}" ${tiny_flags[@]+"${tiny_flags[@]}"})
  fi
  settings+=(${changes[@]+"${changes[@]}"})

  # However many processes there are, an update has as many examples, and each process no more at once than the recipe says.
  at_once=$(setting per_device_train_batch_size)
  batch=$((at_once * $(setting gradient_accumulation_steps)))
  choose_launcher "$batch"
  if ((processes > 1)); then
    each=$((batch / processes))
    accumulation=$(((each + at_once - 1) / at_once))
    while ((each % accumulation)); do accumulation=$((accumulation + 1)); done
    changes+=(--per_device_train_batch_size $((each / accumulation)) --gradient_accumulation_steps "$accumulation")
  fi
  settings+=(--batch "$batch" "$@")

  find_start
  command=("${launcher[@]}" "$root/$entry" "${config[@]}" ${model:+"$model_flag" "$model"}
    "$output_flag" "$out" --share "$shares" ${flags[@]+"${flags[@]}"}
    ${start_flags[@]+"${start_flags[@]}"} ${changes[@]+"${changes[@]}"} "$@")
}

# tune ENTRY [FLAGS]: one tuning.
tune() {
  prepare_tuning "$@"
  if [[ -n $help ]]; then explain "$1"; else start "${command[@]}"; fi
}

# tune_in_turn ENTRY [FLAGS]: several tasks one after the other, by one process; with LoRA, or with every way of sharing too.
tune_in_turn() {
  local NPROC='' ACCELERATE=''
  model_flag=--model output_flag=--output
  if [[ $share != none ]]; then shares=none,a,b,ab; fi
  tune "$@"
}

# examine ENTRY [FLAGS]: an exam of the adapter that the tuning script of the same name made, or of ADAPTER.
examine() {
  local entry=$1
  adapter=${ADAPTER:-$(result_folder "$tuned")}
  shift
  settings=(${flags[@]+"${flags[@]}"})
  if [[ -n $tiny ]]; then settings+=(${tiny_flags[@]+"${tiny_flags[@]}"}); fi
  command=("$python" "$root/$entry" ${model:+--model "$model"} --adapter "$adapter" --output "$out"
    ${settings[@]+"${settings[@]}"} "$@")
  if [[ -n $help ]]; then explain "$entry"; else start "${command[@]}"; fi
}

# Run one of several commands, or print it as `start` does and an empty line after it.
run_stage() {
  if [[ -z ${PRINT_COMMAND:-} ]]; then "$@"; else printf '%s\n' "$@" ""; fi
}

# tune_decode_score ENTRY [FLAGS]: GPT-2 is tuned, decodes the test set, and its texts are scored. What is there is not made
# again: a finished tuning (unless there are flags, which the job compares), decoded texts, scores of these texts. What was
# interrupted resumes where it stopped. Reads STAGES (some of "train decode score"), ADAPTER (decoded and scored instead of what
# is tuned here), DECODE_FLAGS and SCORE_FLAGS (more flags of these two commands).
tune_decode_score() {
  local stages=${STAGES:-train decode score} stage flag
  prepare_tuning "$@"
  if [[ -n $help ]]; then
    explain "$1"
    return
  fi
  shift
  # A dry run makes nothing that could be decoded.
  for flag in "$@"; do if [[ $flag == --dry_run ]]; then stages=train; fi; done
  for stage in ${stages//,/ }; do
    [[ $stage =~ ^(train|decode|score)$ ]] ||
      fail "found the stage $stage in STAGES; need some of train decode score; change STAGES"
  done
  for stage in ${stages//,/ }; do "${stage}_gpt2" "$@"; done
}

train_gpt2() {
  local flag changed=
  for flag in "$@"; do [[ $flag == --tiny* ]] || changed=1; done
  if [[ -f $out/completed && -z $changed && -z ${PRINT_COMMAND:-} ]]; then
    echo "==> $out is tuned already"
    return
  fi
  run_stage "${command[@]}"
  # A signal may have ended it in good order; half an adapter is of no use to the next stage.
  if [[ ! -f $out/completed && $stages != train && -z ${PRINT_COMMAND:-} ]]; then
    echo "==> $out is not tuned to its end; start again to go on"
    exit 0
  fi
}

# Unless MODEL is set, the adapter says which base it belongs to.
decode_gpt2() {
  local subject=(--adapter "${ADAPTER:-$out}" ${MODEL:+--model_name_or_path "$MODEL"})
  if [[ -z ${ADAPTER:-} && -d $out/model ]]; then subject=(--adapter none --model_name_or_path "$out/model"); fi
  if [[ -n $tiny ]]; then decode_flags+=("${tiny_decode_flags[@]}" --tiny); fi
  # shellcheck disable=SC2086
  run_stage "$python" "$root/NLG/gpt2_beam.py" "${subject[@]}" --work_dir "$out/beam" "${decode_flags[@]}" ${DECODE_FLAGS:-}
}

score_gpt2() {
  local texts=$out/beam adapter=${ADAPTER:-$out/adapter_model}
  if [[ $texts/result_nlg_score.json -nt $texts/predictions.txt && -z ${PRINT_COMMAND:-} && -z ${SCORE_FLAGS:-} ]]; then
    echo "==> $texts is scored already: result_nlg_score.json"
    return
  fi
  if [[ ! -f $adapter/adapter_model.safetensors ]]; then adapter=; fi
  if [[ -n $tiny ]]; then score_flags+=("${tiny_score_flags[@]}" --tiny); fi
  # shellcheck disable=SC2086
  run_stage "$python" "$root/NLG/score.py" --predictions "$texts/predictions.txt" --output "$texts" \
    ${adapter:+--adapter "$adapter"} "${score_flags[@]}" ${SCORE_FLAGS:-}
}

# row NAME TEXT: a line of the help, unless there is nothing to say.
row() {
  if [[ -n $2 ]]; then printf '  %-23s%s\n' "$1" "$2"; fi
}

# phrase WORDS NAME: a setting with words before it, or nothing if there is no such setting.
phrase() {
  local value
  value=$(setting "$2")
  echo "${value:+$1$value}"
}

# explain_variable NAME: a variable in the script's line of usage.
explain_variable() {
  case $1 in
    MODEL) row "MODEL=DIR" "another base model, a folder or an id of the hub" ;;
    ADAPTER) row "ADAPTER=DIR" "another adapter; ADAPTER=none examines the base model alone" ;;
    INIT) row "INIT=DIR" "another adapter to start from than that of $start_from.sh; INIT=none: the base model" ;;
    OUTPUT_DIR) row "OUTPUT_DIR=DIR" "another folder for the results" ;;
    SHARELORA_DATA) row "SHARELORA_DATA=DIR" "data sets from a folder instead of the hub" ;;
    DATA_PATH) row "DATA_PATH=FILE" "rows in LLaVA's json; needed unless --tiny is there" ;;
    IMAGE_FOLDER) row "IMAGE_FOLDER=DIR" "where their images are" ;;
    NPROC)
      row "NPROC=N" "processes, which share the examples of an update; LAUNCH_FLAGS go to their launcher"
      row "ACCELERATE=ENGINE" "their engine: a file of scripts/accelerate (ddp, fsdp2, ...), or any of accelerate's"
      ;;
    STAGES)
      row 'STAGES="decode score"' "some of train, decode and score; ADAPTER is decoded with instead of what is tuned here,"
      row "" "DECODE_FLAGS and SCORE_FLAGS go to NLG/gpt2_beam.py and NLG/score.py"
      ;;
  esac
}

# explain ENTRY: what is run, where results go, and what can be set.
explain() {
  local entry=$1 file=scripts/tasks.yaml length name
  if [[ -n ${recipe:-} ]]; then file=scripts/recipes/$recipe.yaml; fi
  sed -n '2s/^# //p' "$0"
  echo
  row "command" "$entry${recipe:+ --config $file} and the flags in this script"
  row "numbers, sources" "${recipe:+$file, scripts/models.yaml, }scripts/tasks.yaml"
  row "base model" "${model:-a small one that the project makes itself}$(phrase ", bits " bits)$(phrase ", bf16 " bf16)$(phrase ", fp16 " fp16)"
  if [[ -n ${tuned:-} ]]; then
    row "adapter" "$adapter"
    row "flags" "${settings[*]}"
  else
    row "data" "$(setting dataset)$(setting task_name)$(setting train_data)$(setting data_path)"
    row "adapter" "--share $shares, rank $(setting lora_r), alpha $(setting lora_alpha)$(phrase ", on " lora_modules)"
    length=$(setting max_steps)
    if [[ ${length:--1} == -1 ]]; then length="epochs: $(setting num_train_epochs)"; else length="updates: $length"; fi
    row "training" "$length, examples per update: $(setting batch), processes: $processes, learning rate: $(setting learning_rate)"
  fi
  row "results" "$out"
  printf '\nTo set before bash, or to add after the script:\n'
  while IFS= read -r name; do explain_variable "${name%=}"; done < <(sed -n 3p "$0" | grep -o '[A-Z_]*=')
  row "PYTHON=FILE" "the Python to use instead of that of .venv, which is made where needed"
  row "PRINT_COMMAND=1" "print the command, one word per line, and do nothing"
  row "--tiny" "the same on a small model and data that the project makes itself; results end in _tiny"
  row "--dry_run" "check everything and stop; nothing is written"
  row "any flag" "of the command, which wins; all of them: ${python#"$root/"} $entry --help"
}
