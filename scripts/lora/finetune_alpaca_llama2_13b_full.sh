#!/usr/bin/env bash
# Tune LLaMA-2-13B on Alpaca with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/finetune_alpaca_llama2_13b_full.sh [--tiny] [FLAGS]
set -euo pipefail
data=alpaca model=llama2_13b precision=full share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/finetune.sh"
