#!/usr/bin/env bash
# Look up the versions that are installed, which are those that requirements.txt locks, among published vulnerabilities.
# Usage: [VENV=DIR] bash scripts/audit.sh [FLAGS OF PIP-AUDIT]      Needs the network: the package index's advisories.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common/environment.sh"
source "$root/scripts/common/venv.sh"

# Vulnerabilities that do no harm here: an ID in each line, and the reason as a comment behind it. None so far.
accepted=()

venv=${VENV:-$root/.venv}
make_venv "$venv" "$root/requirements.txt"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# In an environment of its own, so that it is not among what it looks at.
"$venv/bin/python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check pip-audit==2.10.1
# Advisories know no builds, such as 2.13.0+cpu.
"$venv/bin/python" -m pip freeze --disable-pip-version-check --exclude-editable | sed 's/+[^ ]*$//' >"$work/installed.txt"

ignored=()
for id in ${accepted[@]+"${accepted[@]}"}; do ignored+=(--ignore-vuln "$id"); done
# Without --strict, what could not be looked up would count as clean.
"$work/venv/bin/pip-audit" --strict --no-deps --disable-pip --progress-spinner off --requirement "$work/installed.txt" \
  ${ignored[@]+"${ignored[@]}"} "$@"
