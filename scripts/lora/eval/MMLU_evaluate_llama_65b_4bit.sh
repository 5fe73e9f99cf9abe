#!/usr/bin/env bash
# Five-shot MMLU test accuracy of LLaMA-65B tuned on Alpaca with LoRA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/MMLU_evaluate_llama_65b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=MMLU_llama_65b_4bit tuned=alpaca_llama_65b_4bit base=huggyllama/llama-65b
flags=(--bits 4 --shots 5 --split test) tiny_flags=(--shots 0)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/mmlu.py "$@"
