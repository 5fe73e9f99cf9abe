# How many processes train, and what starts them. Sourced, never run.
# Reads: NPROC (default 1), LAUNCH_FLAGS (more flags of `accelerate launch`), batch.   Sets: processes, launcher.
processes=${NPROC:-1}
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "found NPROC=$processes; need a number of processes of at least 1"

# The examples per update stay the same however many processes share the work.
((batch % processes == 0)) || fail "found NPROC=$processes; need a divisor of the $batch examples per update"

launcher=("$python")
if ((processes > 1)); then
  launcher+=(-m accelerate.commands.launch --num_processes "$processes" --num_machines 1)
  launcher+=(--mixed_precision no --dynamo_backend no)
  # shellcheck disable=SC2206
  launcher+=(${LAUNCH_FLAGS:-})
fi
