#!/usr/bin/env bash
# Tune LLaMA-2-70B on eight commonsense tasks with ShareA adapters; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/finetune_commonsense_llama2_70b_full.sh [--tiny] [FLAGS]
set -euo pipefail
data=commonsense model=llama2_70b precision=full share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/finetune.sh"
