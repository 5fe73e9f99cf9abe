#!/usr/bin/env bash
# Five-shot MMLU test accuracy of LLaMA-2-7B tuned on Alpaca with ShareA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/MMLU_evaluate_llama2_7b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
exam=MMLU model=llama2_7b precision=4bit share=a
source "$(dirname "${BASH_SOURCE[0]}")/../../common/choice.sh"
