#!/usr/bin/env bash
# From a clone to a comparison of LoRA and ShareA, on a small LLaMA that the project makes itself. No GPU, no model hub.
# Usage: [VENV=DIR] bash scripts/quickstart.sh      A second run reuses .venv and the finished runs; delete runs/ to repeat.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common/environment.sh"
source "$root/scripts/common/venv.sh"

venv=${VENV:-$root/.venv}
make_venv "$venv" "$root/requirements.txt"
export PYTHON=$venv/bin/python

# once FOLDER SCRIPT: run a script with --tiny unless the result that it leaves is there already.
once() {
  if [[ -f $root/runs/$1/result.json ]]; then
    echo "==> runs/$1 is there already"
  else
    echo "==> scripts/$2 --tiny"
    bash "$root/scripts/$2" --tiny
  fi
}

# The untuned model first: what the others have learned is the difference.
ADAPTER=none OUTPUT_DIR=$root/runs/base/MMLU_llama3_8b_full_tiny \
  once base/MMLU_llama3_8b_full_tiny lora/eval/MMLU_evaluate_llama3_8b_full.sh
for variant in lora share; do
  once "$variant/alpaca_llama3_8b_full_tiny" "$variant/finetune_alpaca_llama3_8b_full.sh"
  once "$variant/MMLU_llama3_8b_full_tiny" "$variant/eval/MMLU_evaluate_llama3_8b_full.sh"
done

cd "$root"
"$venv/bin/sharelora" compare runs/*/*_llama3_8b_full_tiny
echo "Results: runs/{base,lora,share}/*_llama3_8b_full_tiny/result.json"
echo "Loss:    runs/{lora,share}/alpaca_llama3_8b_full_tiny/loss.png"
