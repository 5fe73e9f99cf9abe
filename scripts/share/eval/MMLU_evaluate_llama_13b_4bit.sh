#!/usr/bin/env bash
# Five-shot MMLU test accuracy of LLaMA-13B tuned on Alpaca with ShareA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/MMLU_evaluate_llama_13b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
exam=MMLU model=llama_13b precision=4bit share=a
source "$(dirname "${BASH_SOURCE[0]}")/../../common/choice.sh"
