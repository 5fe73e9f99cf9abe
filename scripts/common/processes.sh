# How many processes train, and what starts them. Sourced, never run.
# Reads: NPROC, ACCELERATE (a file of scripts/accelerate without .yaml, or the path of any configuration of accelerate),
# LAUNCH_FLAGS (more flags of `accelerate launch`), batch.   Sets: processes, launcher.
engine=${ACCELERATE:-}
if [[ -n $engine && ! -f $engine ]]; then
  engine=$root/scripts/accelerate/$engine.yaml
  [[ -f $engine ]] || fail "found ACCELERATE=$ACCELERATE; need a file, or one of scripts/accelerate:" \
    "$(basename -s .yaml -a "$root"/scripts/accelerate/*.yaml | paste -sd ' ')"
fi

processes=${NPROC:-}
if [[ -z $processes && -n $engine ]]; then processes=$(sed -n 's/^num_processes: *\([0-9]*\).*/\1/p' "$engine"); fi
processes=${processes:-1}
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "found NPROC=$processes; need a number of processes of at least 1"

# The examples per update stay the same however many processes share the work.
((batch % processes == 0)) || fail "found NPROC=$processes; need a divisor of the $batch examples per update"

launcher=("$python")
if [[ -n $engine ]]; then
  launcher+=(-m accelerate.commands.launch --config_file "$engine" --num_processes "$processes")
elif ((processes > 1)); then
  # Without --multi_gpu, one process would start where there are no GPUs, without a word; CPUs are used then.
  launcher+=(-m accelerate.commands.launch --multi_gpu --num_processes "$processes" --num_machines 1)
  launcher+=(--mixed_precision no --dynamo_backend no)
fi
if ((${#launcher[@]} > 1)); then
  # shellcheck disable=SC2206
  launcher+=(${LAUNCH_FLAGS:-})
fi
