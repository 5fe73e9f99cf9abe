#!/usr/bin/env bash
# Tune LLaMA-3-8B on eight commonsense tasks with ShareA adapters; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/finetune_commonsense_llama3_8b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=commonsense_llama3_8b_full base=meta-llama/Meta-Llama-3-8B recipe=commonsense tiny_recipe=tiny_llama
flags=(--bits 16 --bf16 true) tiny_flags=(--warmup_steps 10 --bits 32)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune qlora_share/qlora_share.py "$@"
