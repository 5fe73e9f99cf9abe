# What every script needs: the project's folder, a Python, and whether this is a tiny run. Sourced, never run.
# Reads: PYTHON, SHARELORA_TINY, PRINT_COMMAND, and the script's arguments.   Sets: root, python, tiny (1 or empty).
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
source "$root/scripts/common/paths.sh"

fail() {
  echo "error: $*" >&2
  exit 2
}

# True where --tiny (or --tiny true) is among the arguments, or SHARELORA_TINY is set to something that means yes.
asks_for_tiny() {
  local answer=${SHARELORA_TINY:-0}
  while (($#)); do
    case $1 in
      --tiny) [[ ${2:---} == --* ]] && answer=1 || answer=$2 ;;
      --tiny=*) answer=${1#--tiny=} ;;
    esac
    shift
  done
  [[ ! $answer =~ ^(0|false|False|no|off)$ ]]
}

tiny=
if asks_for_tiny "$@"; then tiny=1; fi

python=${PYTHON:-python3}
if [[ -z ${PYTHON:-} && -x $root/.venv/bin/python ]]; then python=$root/.venv/bin/python; fi

# The library is found without installing it; its dependencies are not.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

# Threads that wait actively make a run many times slower as soon as anything else needs a core.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

# Whether the chosen Python has what a run needs; looked up without importing anything.
has_dependencies() {
  "$python" -c 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, ("torch", "transformers", "peft"))))'
}

# start COMMAND...: become it, so that signals reach it; with PRINT_COMMAND=1 print it instead, one word per line.
start() {
  if [[ -z ${PRINT_COMMAND:-} ]]; then exec "$@"; fi
  printf '%s\n' "$@"
}

# On a clean clone there is nothing to run with yet: make .venv, unless the user said which Python to use.
need_dependencies() {
  if [[ -n ${PRINT_COMMAND:-} ]] || has_dependencies; then return; fi
  if [[ -n ${PYTHON:-} ]]; then
    fail "found no torch, transformers or peft for $python; need all three; unset PYTHON to have .venv made"
  fi
  source "$root/scripts/common/venv.sh"
  make_venv "$root/.venv" "$root/requirements.txt"
  python=$root/.venv/bin/python
}
