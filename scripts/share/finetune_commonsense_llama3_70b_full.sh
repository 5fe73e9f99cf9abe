#!/usr/bin/env bash
# Tune LLaMA-3-70B on eight commonsense tasks with ShareA adapters; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/finetune_commonsense_llama3_70b_full.sh [--tiny] [FLAGS]
set -euo pipefail
data=commonsense model=llama3_70b precision=full share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/finetune.sh"
