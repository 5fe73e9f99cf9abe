#!/usr/bin/env bash
# Tune LLaMA-7B on eight commonsense tasks with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/finetune_commonsense_llama_7b_full.sh [--tiny] [FLAGS]
set -euo pipefail
data=commonsense model=llama_7b precision=full share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/finetune.sh"
