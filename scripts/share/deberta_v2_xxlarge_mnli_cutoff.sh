#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on MNLI with ShareA adapters on query and value and Cutoff.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/deberta_v2_xxlarge_mnli_cutoff.sh [--tiny] [FLAGS]
set -euo pipefail
model=deberta_v2_xxlarge task=mnli regularizer=cutoff share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
