#!/usr/bin/env bash
# Tune LLaMA-3-8B on GSM8K with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/finetune_gsm8k_llama3_8b_full.sh [--tiny] [FLAGS]
set -euo pipefail
data=gsm8k model=llama3_8b precision=full share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/finetune.sh"
