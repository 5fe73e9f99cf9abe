#!/usr/bin/env bash
# Tune RoBERTa-large on QQP with ShareA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/roberta_large_qqp.sh [--tiny] [FLAGS]
set -euo pipefail
model=roberta_large task=qqp share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
