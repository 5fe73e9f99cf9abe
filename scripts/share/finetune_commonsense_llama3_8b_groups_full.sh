#!/usr/bin/env bash
# Tune LLaMA-3-8B on eight commonsense tasks with LoRA modules shared in groups of similar layers, those of the paper; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/finetune_commonsense_llama3_8b_groups_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=ab name=commonsense_llama3_8b_groups_full base=meta-llama/Meta-Llama-3-8B recipe=commonsense tiny_recipe=tiny_llama
flags=(--bits 16 --bf16 true --share_groups '19,20;21,22;23-25;26-28' --expand_rank tables)
tiny_flags=(--warmup_steps 10 --bits 32 --share_groups '0,1;2,3')
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune qlora_share/qlora_share.py "$@"
