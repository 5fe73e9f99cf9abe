#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on RTE with LoRA adapters on query and value, starting from an MNLI adapter.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] [INIT=DIR] bash scripts/lora/deberta_v2_xxlarge_rte.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=deberta_v2_xxlarge_rte base=microsoft/deberta-v2-xxlarge recipe=deberta tiny_recipe=tiny_glue start_from=deberta_v2_xxlarge_mnli
flags=(--task_name rte --per_device_train_batch_size 4 --gradient_accumulation_steps 8 --learning_rate 2.6e-4 --num_train_epochs 11
  --max_seq_length 320 --warmup_steps 50 --weight_decay 0.01 --cls_dropout 0.2 --eval_steps 20 --save_steps 20)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune NLU/run_glue_share.py "$@"
