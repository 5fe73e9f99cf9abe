#!/usr/bin/env bash
# Write worked answers to the GSM8K test questions with LLaMA-3-70B tuned on GSM8K with ShareA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/GSM8K_generate_llama3_70b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=GSM8K_llama3_70b_full tuned=gsm8k_llama3_70b_full base=meta-llama/Meta-Llama-3-70B
flags=(--bits 16 --split test --shots 8 --max_new_tokens 512 --temperature 0.6 --top_p 0.95 --generate_only true)
tiny_flags=(--bits 32 --shots 2 --max_new_tokens 64)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/gsm8k.py "$@"
