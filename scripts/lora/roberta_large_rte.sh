#!/usr/bin/env bash
# Tune RoBERTa-large on RTE with LoRA adapters on query and value, starting from an MNLI adapter.
# Usage: [INIT=DIR] [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/roberta_large_rte.sh [--tiny] [FLAGS]
set -euo pipefail
model=roberta_large task=rte share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
