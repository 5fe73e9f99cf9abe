#!/usr/bin/env bash
# Tune LLaMA-3-70B on eight commonsense tasks with LoRA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/finetune_commonsense_llama3_70b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
data=commonsense model=llama3_70b precision=4bit share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/finetune.sh"
