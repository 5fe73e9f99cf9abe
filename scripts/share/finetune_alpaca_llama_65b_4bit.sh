#!/usr/bin/env bash
# Tune LLaMA-65B on Alpaca with ShareA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/finetune_alpaca_llama_65b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=alpaca_llama_65b_4bit base=huggyllama/llama-65b recipe=qlora tiny_recipe=tiny_llama
flags=(--bits 4 --quant_type nf4 --double_quant true --bf16 true --learning_rate 1e-4 --lora_dropout 0.05 --dataset alpaca --dataset_format alpaca
  --source_max_len 384 --target_max_len 128 --eval_dataset_size 1024 --max_eval_samples 1000 --do_mmlu_eval true --mmlu_split eval)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune qlora_share/qlora_share.py "$@"
