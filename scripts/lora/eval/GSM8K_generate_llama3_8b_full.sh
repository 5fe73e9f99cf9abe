#!/usr/bin/env bash
# Write worked answers to the GSM8K test questions with LLaMA-3-8B tuned on GSM8K with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/GSM8K_generate_llama3_8b_full.sh [--tiny] [FLAGS]
set -euo pipefail
test=GSM8K stage=generate model=llama3_8b precision=full share=none
source "$(dirname "${BASH_SOURCE[0]}")/../../common/generation.sh"
