#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on STS-B with ShareA adapters on query and value, starting from an MNLI adapter.
# Usage: [INIT=DIR] [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/deberta_v2_xxlarge_stsb.sh [--tiny] [FLAGS]
set -euo pipefail
model=deberta_v2_xxlarge task=stsb share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
