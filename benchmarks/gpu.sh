#!/usr/bin/env bash
# Measure on one large GPU, in about 8 minutes, without a network: see benchmarks/gpu/.
# Usage: [WHEELS=DIR] [PYTHON=python3] [OUT=DIR] bash benchmarks/gpu.sh [FLAGS]   for example --tiny, on a CPU
#
# The machine needs torch with CUDA, transformers 5.17 or newer, accelerate, safetensors, psutil and numpy. What it
# lacks, or has in another version, travels as wheels in the folder WHEELS. Where the network is, for Python 3.12:
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 \
#     -d DIR peft==0.21.2 bitsandbytes==0.50.2
# (44 MB; without bitsandbytes the NF4 sections are left out). They are unpacked into a temporary folder, that is all.
# Results go to benchmarks/results as dated JSON and Markdown, and to OUT if that is set.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
source "$root/scripts/common/paths.sh"
cd "$root"
python=${PYTHON:-python3}
if [[ -z ${PYTHON:-} && -x $root/.venv/bin/python ]]; then python=$root/.venv/bin/python; fi

site=
if [[ -n ${WHEELS:-} ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$WHEELS"/*.whl
fi

export PYTHONPATH="${site:+$site:}$root${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
"$python" -m benchmarks.gpu "$@"
