#!/usr/bin/env bash
# GSM8K test accuracy of LLaMA-3-8B tuned on GSM8K with ShareA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/GSM8K_evaluate_llama3_8b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=GSM8K_llama3_8b_full tuned=gsm8k_llama3_8b_full base=meta-llama/Meta-Llama-3-8B
flags=(--bits 16 --split test --shots 8 --max_new_tokens 512 --temperature 0.6 --top_p 0.95 --generate_only false)
tiny_flags=(--bits 32 --shots 2 --max_new_tokens 64)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/gsm8k.py "$@"
