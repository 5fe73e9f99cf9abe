#!/usr/bin/env bash
# Tune RoBERTa-large on SST-2 with ShareA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/roberta_large_sst2.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=roberta_large_sst2 base=FacebookAI/roberta-large recipe=roberta tiny_recipe=tiny_glue
flags=(--task_name sst2 --per_device_train_batch_size 8 --gradient_accumulation_steps 8 --learning_rate 4e-4 --num_train_epochs 10
  --max_seq_length 512)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune NLU/run_glue_share.py "$@"
