#!/usr/bin/env bash
# Five-shot MMLU test accuracy of LLaMA-3-8B tuned on Alpaca with LoRA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/MMLU_evaluate_llama3_8b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
exam=MMLU model=llama3_8b precision=4bit share=none
source "$(dirname "${BASH_SOURCE[0]}")/../../common/choice.sh"
