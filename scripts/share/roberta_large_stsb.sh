#!/usr/bin/env bash
# Tune RoBERTa-large on STS-B with ShareA adapters on query and value, starting from an MNLI adapter.
# Usage: [INIT=DIR] [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/roberta_large_stsb.sh [--tiny] [FLAGS]
set -euo pipefail
model=roberta_large task=stsb share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
