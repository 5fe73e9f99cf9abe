#!/usr/bin/env bash
# Tune GPT-2 medium on DART with ShareA adapters on query and value, decode the test set, and score the texts.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] [STAGES="train decode score"] bash scripts/share/gpt2_medium_dart.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=gpt2_medium_dart base=openai-community/gpt2-medium recipe=gpt2 tiny_recipe=tiny_gpt2
flags=(--train_data dart --weight_decay 0.0 --lora_dropout 0.0 --label_smoothing_factor 0.0) full_flags=(--num_train_epochs 5)
decode_flags=(--data dart --split test --length_penalty 0.8 --beam 10 --no_repeat_ngram_size 4 --repetition_penalty 1.0 --seq_len 512 --eval_len 64)
tiny_decode_flags=(--eval_len 48) score_flags=(--task dart --data dart --split test) tiny_score_flags=(--without meteor)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune_decode_score NLG/gpt2_share_ft.py "$@"
