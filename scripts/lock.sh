#!/usr/bin/env bash
# Write requirements.txt and requirements-dev.txt: exact versions and hashes of what pyproject.toml names and of all that it brings along.
# Usage: [PYTHON=python3.11] bash scripts/lock.sh [FLAGS OF UV]      Needs the network. Versions stay while pyproject.toml allows them.
#        bash scripts/lock.sh --upgrade                              The newest of all.  --upgrade-package NAME: of one.
set -euo pipefail
interpreter=${PYTHON:-python3.11}
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common/environment.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$interpreter" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check uv==0.13.9

cd "$root"
# What builds the project is installed too, so that nothing is fetched for it unseen.
"$interpreter" -c 'import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' >"$work/build.in"

# lock FILE FLAGS...: for Linux and macOS, on every Python that the project runs on.
lock() {
  local file=$1
  shift
  "$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --output-file "$file" pyproject.toml "$work/build.in" "$@" >/dev/null
}

# The old versions are what uv prefers.
for file in requirements requirements-dev; do cp "$file.txt" "$work/$file.txt"; done
lock "$work/requirements-dev.txt" --extra dev --extra vision "$@"
grep -oE '^[a-z0-9_.-]+==[^ ;\\]+( ; [^\\]+)?' "$work/requirements-dev.txt" >"$work/versions.txt"
# Besides what the project imports: LoRA's own library to compare with, metrics of `evaluate`, and the runner of the tests.
printf '%s\n' evaluate loralib pytest >"$work/beside.in"
lock "$work/requirements.txt" "$work/beside.in" --extra quantized --extra plots --extra vision --constraint "$work/versions.txt"

# A build of torch for CPUs alone, where this machine's index has one, is another file than the public ones; so are those of other
# machines, which the list has already.
torch=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$work/requirements.txt")
"$work/venv/bin/python" -m pip download --quiet --no-input --disable-pip-version-check --no-deps --dest "$work" "torch==$torch"
{
  sha256sum "$work"/torch-*.whl | cut -d' ' -f1
  awk -v torch="torch==$torch" '/^[a-z0-9]/ { inside = $1 == torch } inside' requirements.txt | grep -oE '[0-9a-f]{64}' || true
} >"$work/builds.txt"
for file in requirements requirements-dev; do
  while read -r hash; do
    grep -q "$hash" "$work/$file.txt" || sed -i "s/^torch==.*/&\n    --hash=sha256:$hash \\\\/" "$work/$file.txt"
  done <"$work/builds.txt"
  {
    echo "# Written by scripts/lock.sh from pyproject.toml: every package with the hashes of its files. Do not edit."
    sed '/^ *#/d' "$work/$file.txt"
  } >"$file.txt"
done
