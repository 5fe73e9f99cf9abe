#!/usr/bin/env bash
# Write completions of the HumanEval functions with LLaMA-3-70B tuned on CodeAlpaca with ShareA adapters; 4-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/eval/HumanEval_generate_llama3_70b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
test=HumanEval stage=generate model=llama3_70b precision=4bit share=a
source "$(dirname "${BASH_SOURCE[0]}")/../../common/generation.sh"
