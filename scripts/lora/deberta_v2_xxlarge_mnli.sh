#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on MNLI with LoRA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/deberta_v2_xxlarge_mnli.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=deberta_v2_xxlarge_mnli base=microsoft/deberta-v2-xxlarge recipe=deberta tiny_recipe=tiny_glue
flags=(--task_name mnli --per_device_train_batch_size 8 --gradient_accumulation_steps 8 --learning_rate 1e-4 --num_train_epochs 5 --max_seq_length 256
  --warmup_steps 1000 --weight_decay 0 --cls_dropout 0.15 --eval_steps 500 --save_steps 500)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune NLU/run_glue_share.py "$@"
