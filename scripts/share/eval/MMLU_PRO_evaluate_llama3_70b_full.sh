#!/usr/bin/env bash
# MMLU-Pro test accuracy of LLaMA-3-70B tuned on Alpaca with ShareA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/MMLU_PRO_evaluate_llama3_70b_full.sh [--tiny] [FLAGS]
set -euo pipefail
exam=MMLU_PRO model=llama3_70b precision=full share=a
source "$(dirname "${BASH_SOURCE[0]}")/../../common/choice.sh"
