#!/usr/bin/env bash
# Tune LLaMA-3-8B on Alpaca, GSM8K and code one after the other with LoRA; what is kept, what is forgotten; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/lora/continual_llama3_8b.sh [--tiny] [FLAGS]
set -euo pipefail
model=llama3_8b precision=full share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/continual.sh"
