#!/usr/bin/env bash
# GSM8K test accuracy of LLaMA-3-8B tuned on GSM8K with LoRA adapters; 4-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/GSM8K_evaluate_llama3_8b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
test=GSM8K stage=evaluate model=llama3_8b precision=4bit share=none
source "$(dirname "${BASH_SOURCE[0]}")/../../common/generation.sh"
