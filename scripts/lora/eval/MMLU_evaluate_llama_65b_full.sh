#!/usr/bin/env bash
# Five-shot MMLU test accuracy of LLaMA-65B tuned on Alpaca with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/MMLU_evaluate_llama_65b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=MMLU_llama_65b_full tuned=alpaca_llama_65b_full base=huggyllama/llama-65b
flags=(--bits 16 --shots 5 --split test) tiny_flags=(--bits 32 --shots 0)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/mmlu.py "$@"
