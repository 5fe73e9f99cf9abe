#!/usr/bin/env bash
# Tune LLaVA-1.5-7B on conversations about images with ShareA adapters in its language model, and its projector; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [DATA_PATH=FILE] [IMAGE_FOLDER=DIR] [NPROC=N] bash scripts/share/finetune_llava15_7b_full.sh [--tiny] [FLAGS]
set -euo pipefail
model=llava15_7b precision=full share=a
source "$(dirname "${BASH_SOURCE[0]}")/../common/vision.sh"
