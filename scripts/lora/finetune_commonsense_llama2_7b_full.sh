#!/usr/bin/env bash
# Tune LLaMA-2-7B on eight commonsense tasks with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/finetune_commonsense_llama2_7b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=commonsense_llama2_7b_full base=meta-llama/Llama-2-7b-hf recipe=commonsense tiny_recipe=tiny_llama
flags=(--bits 16 --bf16 true) tiny_flags=(--warmup_steps 10 --bits 32)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune qlora_share/qlora_share.py "$@"
