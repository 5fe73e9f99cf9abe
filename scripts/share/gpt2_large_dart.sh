#!/usr/bin/env bash
# Tune GPT-2 large on DART with ShareA adapters on query and value, decode the test set, and score the texts.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] [STAGES="train decode score"] bash scripts/share/gpt2_large_dart.sh [--tiny] [FLAGS]
set -euo pipefail
model=gpt2_large data=dart share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/nlg.sh"
