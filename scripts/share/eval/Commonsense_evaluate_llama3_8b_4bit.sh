#!/usr/bin/env bash
# Accuracy on eight commonsense tasks of LLaMA-3-8B tuned on them with ShareA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/Commonsense_evaluate_llama3_8b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
exam=Commonsense model=llama3_8b precision=4bit share=a
source "$(dirname "${BASH_SOURCE[0]}")/../../common/choice.sh"
