#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on QNLI with ShareA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/deberta_v2_xxlarge_qnli.sh [--tiny] [FLAGS]
set -euo pipefail
model=deberta_v2_xxlarge task=qnli share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
