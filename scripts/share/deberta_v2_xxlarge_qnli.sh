#!/usr/bin/env bash
# Tune DeBERTa-v2-xxlarge on QNLI with ShareA adapters on query and value.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/deberta_v2_xxlarge_qnli.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=deberta_v2_xxlarge_qnli base=microsoft/deberta-v2-xxlarge recipe=deberta tiny_recipe=tiny_glue
flags=(--task_name qnli --per_device_train_batch_size 6 --gradient_accumulation_steps 8 --learning_rate 1e-4 --num_train_epochs 8 --max_seq_length 512
  --warmup_steps 500 --weight_decay 0.01 --cls_dropout 0.1 --eval_steps 500 --save_steps 500)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune NLU/run_glue_share.py "$@"
