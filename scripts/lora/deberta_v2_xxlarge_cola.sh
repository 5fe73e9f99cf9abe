#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on CoLA with LoRA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/deberta_v2_xxlarge_cola.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=deberta_v2_xxlarge_cola base=microsoft/deberta-v2-xxlarge recipe=deberta tiny_recipe=tiny_glue
flags=(--task_name cola --per_device_train_batch_size 4 --gradient_accumulation_steps 8 --learning_rate 1.3e-4 --num_train_epochs 10
  --max_seq_length 64 --warmup_steps 100 --weight_decay 0 --cls_dropout 0.1 --eval_steps 20 --save_steps 20)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune NLU/run_glue_share.py "$@"
