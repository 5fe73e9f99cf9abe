#!/usr/bin/env bash
# GSM8K test accuracy of LLaMA-3-8B tuned on GSM8K with ShareA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/GSM8K_evaluate_llama3_8b_full.sh [--tiny] [FLAGS]
set -euo pipefail
test=GSM8K stage=evaluate model=llama3_8b precision=full share=a
source "$(dirname "${BASH_SOURCE[0]}")/../../common/generation.sh"
