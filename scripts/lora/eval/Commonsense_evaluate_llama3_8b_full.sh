#!/usr/bin/env bash
# Accuracy on eight commonsense tasks of LLaMA-3-8B tuned on them with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/Commonsense_evaluate_llama3_8b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=Commonsense_llama3_8b_full tuned=commonsense_llama3_8b_full base=meta-llama/Meta-Llama-3-8B
flags=(--bits 16) tiny_flags=(--bits 32)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/commonsense.py "$@"
