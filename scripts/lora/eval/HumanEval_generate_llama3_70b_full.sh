#!/usr/bin/env bash
# Write completions of the HumanEval functions with LLaMA-3-70B tuned on CodeAlpaca with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/HumanEval_generate_llama3_70b_full.sh [--tiny] [FLAGS]
set -euo pipefail
test=HumanEval stage=generate model=llama3_70b precision=full share=none
source "$(dirname "${BASH_SOURCE[0]}")/../../common/generation.sh"
