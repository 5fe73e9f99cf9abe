#!/usr/bin/env bash
# Five-shot MMLU test accuracy of LLaMA-13B tuned on Alpaca with ShareA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/MMLU_evaluate_llama_13b_full.sh [--tiny] [FLAGS]
set -euo pipefail
exam=MMLU model=llama_13b precision=full share=a
source "$(dirname "${BASH_SOURCE[0]}")/../../common/choice.sh"
