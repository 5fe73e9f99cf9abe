#!/usr/bin/env bash
# MMLU-Pro test accuracy of LLaMA-3-70B tuned on Alpaca with ShareA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/MMLU_PRO_evaluate_llama3_70b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=MMLU_PRO_llama3_70b_4bit tuned=alpaca_llama3_70b_4bit base=meta-llama/Meta-Llama-3-70B
flags=(--bits 4 --split test) tiny_flags=(--shots 0)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/mmlu_pro.py "$@"
