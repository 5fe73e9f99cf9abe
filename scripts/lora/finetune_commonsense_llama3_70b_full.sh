#!/usr/bin/env bash
# Tune LLaMA-3-70B on eight commonsense tasks with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/finetune_commonsense_llama3_70b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=commonsense_llama3_70b_full base=meta-llama/Meta-Llama-3-70B recipe=commonsense tiny_recipe=tiny_llama
flags=(--bits 16 --bf16 true) tiny_flags=(--warmup_steps 10 --bits 32)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune qlora_share/qlora_share.py "$@"
