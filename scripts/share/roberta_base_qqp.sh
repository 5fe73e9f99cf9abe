#!/usr/bin/env bash
# Tune RoBERTa-base on QQP with ShareA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/roberta_base_qqp.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=roberta_base_qqp base=FacebookAI/roberta-base recipe=roberta tiny_recipe=tiny_glue
flags=(--task_name qqp --per_device_train_batch_size 16 --gradient_accumulation_steps 8 --learning_rate 5e-4 --num_train_epochs 25
  --max_seq_length 512)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune NLU/run_glue_share.py "$@"
