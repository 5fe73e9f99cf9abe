#!/usr/bin/env bash
# Tune LLaMA-2-70B on eight commonsense tasks with LoRA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/finetune_commonsense_llama2_70b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
data=commonsense model=llama2_70b precision=4bit share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/finetune.sh"
