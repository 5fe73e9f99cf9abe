#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on SST-2 with LoRA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/deberta_v2_xxlarge_sst2.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=deberta_v2_xxlarge_sst2 base=microsoft/deberta-v2-xxlarge recipe=deberta tiny_recipe=tiny_glue
flags=(--task_name sst2 --per_device_train_batch_size 8 --gradient_accumulation_steps 8 --learning_rate 6e-5 --num_train_epochs 16
  --max_seq_length 128 --warmup_steps 1000 --weight_decay 0.01 --cls_dropout 0 --eval_steps 100 --save_steps 100)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune NLU/run_glue_share.py "$@"
