#!/usr/bin/env bash
# Tune GPT-2 medium on E2E with LoRA adapters on query and value, decode the test set, and score the texts.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] [STAGES="train decode score"] bash scripts/lora/gpt2_medium_e2e.sh [--tiny] [FLAGS]
set -euo pipefail
model=gpt2_medium data=e2e share=none
source "$(dirname "${BASH_SOURCE[0]}")/../common/nlg.sh"
