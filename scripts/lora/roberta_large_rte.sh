#!/usr/bin/env bash
# Tune RoBERTa-large on RTE with LoRA adapters on query and value, starting from an MNLI adapter.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] [INIT=DIR] bash scripts/lora/roberta_large_rte.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=roberta_large_rte base=FacebookAI/roberta-large recipe=roberta tiny_recipe=tiny_glue start_from=roberta_large_mnli
flags=(--task_name rte --per_device_train_batch_size 8 --gradient_accumulation_steps 8 --learning_rate 4e-4 --num_train_epochs 20
  --max_seq_length 512)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune NLU/run_glue_share.py "$@"
