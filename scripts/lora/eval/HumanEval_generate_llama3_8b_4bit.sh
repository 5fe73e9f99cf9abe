#!/usr/bin/env bash
# Write completions of the HumanEval functions with LLaMA-3-8B tuned on CodeAlpaca with LoRA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/HumanEval_generate_llama3_8b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=HumanEval_llama3_8b_4bit tuned=code_llama3_8b_4bit base=meta-llama/Meta-Llama-3-8B
flags=(--bits 4 --samples 1 --k 1 --max_new_tokens 1024 --temperature 0.2 --top_p 0.95 --generate_only true) tiny_flags=(--max_new_tokens 64)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/humaneval.py "$@"
