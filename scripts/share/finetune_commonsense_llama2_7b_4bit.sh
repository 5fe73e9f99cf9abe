#!/usr/bin/env bash
# Tune LLaMA-2-7B on eight commonsense tasks with ShareA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/finetune_commonsense_llama2_7b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
data=commonsense model=llama2_7b precision=4bit share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/finetune.sh"
