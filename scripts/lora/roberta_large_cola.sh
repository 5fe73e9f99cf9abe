#!/usr/bin/env bash
# Tune RoBERTa-large on CoLA with LoRA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/roberta_large_cola.sh [--tiny] [FLAGS]
set -euo pipefail
model=roberta_large task=cola share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
