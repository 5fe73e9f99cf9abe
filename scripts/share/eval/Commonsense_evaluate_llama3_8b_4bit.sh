#!/usr/bin/env bash
# Accuracy on eight commonsense tasks of LLaMA-3-8B tuned on them with ShareA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/Commonsense_evaluate_llama3_8b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=Commonsense_llama3_8b_4bit tuned=commonsense_llama3_8b_4bit base=meta-llama/Meta-Llama-3-8B
flags=(--bits 4)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/commonsense.py "$@"
