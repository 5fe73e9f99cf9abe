#!/usr/bin/env bash
# Tune LLaMA-30B on Alpaca with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/finetune_alpaca_llama_30b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=alpaca_llama_30b_full base=huggyllama/llama-30b recipe=qlora tiny_recipe=tiny_llama
flags=(--bits 16 --bf16 true --learning_rate 1e-4 --lora_dropout 0.05 --dataset alpaca --dataset_format alpaca --source_max_len 384
  --target_max_len 128 --eval_dataset_size 1024 --max_eval_samples 1000 --do_mmlu_eval true --mmlu_split eval)
tiny_flags=(--bits 32)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune qlora_share/qlora_share.py "$@"
