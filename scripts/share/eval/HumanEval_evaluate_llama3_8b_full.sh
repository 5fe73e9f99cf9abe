#!/usr/bin/env bash
# HumanEval pass@1 of LLaMA-3-8B tuned on CodeAlpaca with ShareA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/HumanEval_evaluate_llama3_8b_full.sh [--tiny] [FLAGS]
set -euo pipefail
test=HumanEval stage=evaluate model=llama3_8b precision=full share=a
source "$(dirname "${BASH_SOURCE[0]}")/../../common/generation.sh"
