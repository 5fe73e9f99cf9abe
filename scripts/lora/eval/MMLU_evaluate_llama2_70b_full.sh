#!/usr/bin/env bash
# Five-shot MMLU test accuracy of LLaMA-2-70B tuned on Alpaca with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/MMLU_evaluate_llama2_70b_full.sh [--tiny] [FLAGS]
set -euo pipefail
exam=MMLU model=llama2_70b precision=full share=none
source "$(dirname "${BASH_SOURCE[0]}")/../../common/choice.sh"
