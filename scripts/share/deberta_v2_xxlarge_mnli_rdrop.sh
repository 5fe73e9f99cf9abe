#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on MNLI with ShareA adapters on query and value and R-drop.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/deberta_v2_xxlarge_mnli_rdrop.sh [--tiny] [FLAGS]
set -euo pipefail
model=deberta_v2_xxlarge task=mnli regularizer=rdrop share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
