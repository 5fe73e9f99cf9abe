#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on SST-2 with ShareA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/deberta_v2_xxlarge_sst2.sh [--tiny] [FLAGS]
set -euo pipefail
model=deberta_v2_xxlarge task=sst2 share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
