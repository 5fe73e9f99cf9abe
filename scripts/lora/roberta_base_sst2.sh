#!/usr/bin/env bash
# Tune RoBERTa-base on SST-2 with LoRA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/roberta_base_sst2.sh [--tiny] [FLAGS]
set -euo pipefail
model=roberta_base task=sst2 share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
