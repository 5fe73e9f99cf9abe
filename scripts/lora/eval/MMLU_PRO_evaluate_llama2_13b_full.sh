#!/usr/bin/env bash
# MMLU-Pro test accuracy of LLaMA-2-13B tuned on Alpaca with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/MMLU_PRO_evaluate_llama2_13b_full.sh [--tiny] [FLAGS]
set -euo pipefail
exam=MMLU_PRO model=llama2_13b precision=full share=none
source "$(dirname "${BASH_SOURCE[0]}")/../../common/choice.sh"
