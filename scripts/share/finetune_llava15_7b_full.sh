#!/usr/bin/env bash
# Tune LLaVA-1.5-7B on conversations about images with ShareA adapters in its language model, and its projector; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [DATA_PATH=FILE] [IMAGE_FOLDER=DIR] [NPROC=N] bash scripts/share/finetune_llava15_7b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=llava15_7b_full base=llava-hf/llava-1.5-7b-hf recipe=llava tiny_recipe=tiny_llava
flags=(--bits 16 --bf16 true ${DATA_PATH:+--data_path "$DATA_PATH"} ${IMAGE_FOLDER:+--image_folder "$IMAGE_FOLDER"})
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune qlora_share/llava_share.py "$@"
