#!/usr/bin/env bash
# Tune RoBERTa-large on CoLA with LoRA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/roberta_large_cola.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=roberta_large_cola base=FacebookAI/roberta-large recipe=roberta tiny_recipe=tiny_glue
flags=(--task_name cola --per_device_train_batch_size 4 --gradient_accumulation_steps 8 --learning_rate 3e-4 --num_train_epochs 20
  --max_seq_length 128)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune NLU/run_glue_share.py "$@"
