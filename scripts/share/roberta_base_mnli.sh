#!/usr/bin/env bash
# Tune RoBERTa-base on MNLI with ShareA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/roberta_base_mnli.sh [--tiny] [FLAGS]
set -euo pipefail
model=roberta_base task=mnli share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/glue.sh"
