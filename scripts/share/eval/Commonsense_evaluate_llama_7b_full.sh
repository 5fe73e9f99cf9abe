#!/usr/bin/env bash
# Accuracy on eight commonsense tasks of LLaMA-7B tuned on them with ShareA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/Commonsense_evaluate_llama_7b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=Commonsense_llama_7b_full tuned=commonsense_llama_7b_full base=huggyllama/llama-7b
flags=(--bits 16) tiny_flags=(--bits 32)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/commonsense.py "$@"
