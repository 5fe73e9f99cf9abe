#!/usr/bin/env bash
# Accuracy on eight commonsense tasks of LLaMA-2-70B tuned on them with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [ADAPTER=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/eval/Commonsense_evaluate_llama2_70b_full.sh [--tiny] [FLAGS]
set -euo pipefail
exam=Commonsense model=llama2_70b precision=full share=none
source "$(dirname "${BASH_SOURCE[0]}")/../../common/choice.sh"
