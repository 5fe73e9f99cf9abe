#!/usr/bin/env bash
# MMLU-Pro test accuracy of LLaMA-2-7B tuned on Alpaca with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/MMLU_PRO_evaluate_llama2_7b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=MMLU_PRO_llama2_7b_full tuned=alpaca_llama2_7b_full base=meta-llama/Llama-2-7b-hf
flags=(--bits 16 --split test) tiny_flags=(--bits 32 --shots 0)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/mmlu_pro.py "$@"
