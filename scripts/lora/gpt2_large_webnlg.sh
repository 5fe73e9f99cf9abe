#!/usr/bin/env bash
# Tune GPT-2 large on WebNLG 2017 with LoRA adapters on query and value, decode the test set, and score the texts.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] [STAGES="train decode score"] bash scripts/lora/gpt2_large_webnlg.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=gpt2_large_webnlg base=openai-community/gpt2-large recipe=gpt2 tiny_recipe=tiny_gpt2
flags=(--train_data webnlg --weight_decay 0.01 --lora_dropout 0.1 --label_smoothing_factor 0.1) full_flags=(--num_train_epochs 5)
decode_flags=(--data webnlg --split test --length_penalty 0.8 --beam 10 --no_repeat_ngram_size 4 --repetition_penalty 1.0 --seq_len 512 --eval_len 64)
tiny_decode_flags=(--eval_len 48) score_flags=(--task webnlg --data webnlg --split test) tiny_score_flags=(--without meteor)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune_decode_score NLG/gpt2_share_ft.py "$@"
