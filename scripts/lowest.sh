#!/usr/bin/env bash
# Run tests with the lowest versions that pyproject.toml allows, in an environment of their own; see docs/install.md.
# Usage: [VENV=DIR] [PYTHON=python3.11] bash scripts/lowest.sh [FLAGS OF PYTEST]      Needs the network; tests/core by default.
set -euo pipefail
interpreter=${PYTHON:-python3.11}
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common/environment.sh"

venv=${VENV:-$root/build/lowest}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# pip always takes the newest version. In an environment of its own, so that it is not among what is tested.
"$interpreter" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check uv==0.13.9
uv=$work/venv/bin/uv

cd "$root"
"$uv" venv --quiet --allow-existing --python "$interpreter" "$venv"
"$uv" pip compile --quiet --resolution lowest-direct --python "$venv/bin/python" --extra dev --extra vision \
  --output-file "$work/lowest.txt" pyproject.toml
echo "Installing into $venv (5.5 GB with a CUDA build of torch; minutes the first time) ..."
"$uv" pip sync --quiet --python "$venv/bin/python" "$work/lowest.txt"
"$uv" pip install --quiet --python "$venv/bin/python" --no-deps --editable .
"$uv" pip freeze --quiet --python "$venv/bin/python" --exclude-editable | paste -sd ' '

export OMP_NUM_THREADS=1
if (($# == 0)); then set -- tests/core; fi
"$venv/bin/python" -m pytest -n "${TEST_WORKERS:-2}" --dist worksteal "$@"
