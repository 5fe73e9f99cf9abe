#!/usr/bin/env bash
# Tune one base model on Alpaca with LoRA and five ways of sharing, one of them also on a 4-bit base: three seeds each, one
# table of losses.
# Usage: MODEL=DIR SHARELORA_DATA=DIR [JOBS=N] [SEEDS="0 1 2"] [OUTPUT_DIR=DIR] bash scripts/real_input.sh [FLAGS]
# Runs that are finished are not repeated, so an interrupted comparison resumes where it stopped.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
source scripts/common/environment.sh
out=${OUTPUT_DIR:-runs/real_input}
need_dependencies

qkv=q_proj,k_proj,v_proj
variants=(
  "lora      scripts/lora/finetune_alpaca_llama3_8b_full.sh"
  "a         scripts/share/finetune_alpaca_llama3_8b_full.sh"
  "b         scripts/share/finetune_alpaca_llama3_8b_full.sh --share b"
  "ab        scripts/share/finetune_alpaca_llama3_8b_full.sh --share ab"
  "tied_qkv  scripts/share/finetune_alpaca_llama3_8b_full.sh --lora_modules $qkv --share_across modules"
  "odd_even  scripts/share/finetune_alpaca_llama3_8b_full.sh --share ab --share_groups odd_even"
  "a_4bit    scripts/share/finetune_alpaca_llama3_8b_4bit.sh"
)

for seed in ${SEEDS:-0 1 2}; do
  for variant in "${variants[@]}"; do
    read -r name command <<<"$variant"
    run=$out/${name}_seed$seed
    printf '%s\0' "mkdir -p ${out@Q} && OUTPUT_DIR=${run@Q} bash $command --run_name $name --seed $seed ${*@Q} \
      >${run@Q}.log 2>&1 || { tail -n 3 ${run@Q}.log; exit 255; }"
  done
done | xargs -0 -n 1 -P "${JOBS:-1}" bash -c

"$python" -m sharelora compare "$out"/*_seed*/ --by_seed
