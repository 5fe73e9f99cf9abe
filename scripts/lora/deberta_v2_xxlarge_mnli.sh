#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on MNLI with LoRA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/deberta_v2_xxlarge_mnli.sh [--tiny] [FLAGS]
set -euo pipefail
model=deberta_v2_xxlarge task=mnli share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
