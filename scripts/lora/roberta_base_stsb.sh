#!/usr/bin/env bash
# Tune RoBERTa-base on STS-B with LoRA adapters on query and value, starting from an MNLI adapter.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] [INIT=DIR] bash scripts/lora/roberta_base_stsb.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=roberta_base_stsb base=FacebookAI/roberta-base recipe=roberta tiny_recipe=tiny_glue start_from=roberta_base_mnli
flags=(--task_name stsb --per_device_train_batch_size 16 --gradient_accumulation_steps 8 --learning_rate 4e-4 --num_train_epochs 40
  --max_seq_length 512)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune NLU/run_glue_share.py "$@"
