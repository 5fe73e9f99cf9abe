#!/usr/bin/env bash
# Tune LLaMA-3-8B on Alpaca, GSM8K and code one after the other with LoRA and three ways of sharing; what is kept, what is forgotten; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] bash scripts/share/continual_llama3_8b.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=continual_llama3_8b base=meta-llama/Meta-Llama-3-8B recipe=llama3 tiny_recipe=tiny_llama
flags=(--bits 16 --bf16 true --lora_dropout 0.1 --gradient_checkpointing false --do_eval false --eval_strategy no --load_best_model_at_end false
  --save_total_limit 1)
tiny_flags=(--bits 32 --max_steps 40 --save_steps 40)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune_in_turn eval/continual.py "$@"
