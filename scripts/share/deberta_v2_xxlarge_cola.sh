#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on CoLA with ShareA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/deberta_v2_xxlarge_cola.sh [--tiny] [FLAGS]
set -euo pipefail
model=deberta_v2_xxlarge task=cola share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
