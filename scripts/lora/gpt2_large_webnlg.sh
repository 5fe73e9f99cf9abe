#!/usr/bin/env bash
# Tune GPT-2 large on WebNLG 2017 with LoRA adapters on query and value, decode the test set, and score the texts.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] [STAGES="train decode score"] bash scripts/lora/gpt2_large_webnlg.sh [--tiny] [FLAGS]
set -euo pipefail
model=gpt2_large data=webnlg share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/nlg.sh"
