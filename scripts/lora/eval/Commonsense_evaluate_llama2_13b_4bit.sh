#!/usr/bin/env bash
# Accuracy on eight commonsense tasks of LLaMA-2-13B tuned on them with LoRA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/Commonsense_evaluate_llama2_13b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=Commonsense_llama2_13b_4bit tuned=commonsense_llama2_13b_4bit base=meta-llama/Llama-2-13b-hf
flags=(--bits 4)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../common/run.sh"
examine eval/commonsense.py "$@"
