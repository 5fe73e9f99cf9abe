#!/usr/bin/env bash
# Make or reuse .venv and run the tests: no network, no GPU, within five minutes on two cores.
# Usage: [VENV=DIR] bash scripts/test.sh [FLAGS OF PYTEST]      for example: bash scripts/test.sh -k plan
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common/environment.sh"
source "$root/scripts/common/venv.sh"

venv=${VENV:-$root/.venv}
make_venv "$venv" "$root/requirements-dev.txt"
cd "$root"
# One thread for each of two workers: threads of several processes that wait for each other actively stand in each other's way.
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
exec "$venv/bin/python" -m pytest -n "${TEST_WORKERS:-2}" --dist worksteal "$@"
