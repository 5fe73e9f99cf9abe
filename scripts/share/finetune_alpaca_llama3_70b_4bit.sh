#!/usr/bin/env bash
# Tune LLaMA-3-70B on Alpaca with ShareA adapters; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/finetune_alpaca_llama3_70b_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=a name=alpaca_llama3_70b_4bit base=meta-llama/Meta-Llama-3-70B recipe=llama3 tiny_recipe=tiny_llama
flags=(--bits 4 --quant_type nf4 --double_quant true --bf16 true --lora_dropout 0.05 --gradient_checkpointing true --dataset alpaca
  --dataset_format alpaca --source_max_len 512 --target_max_len 512 --eval_dataset_size 3000 --max_eval_samples 3000 --do_mmlu_eval true
  --mmlu_split eval --save_total_limit 20)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune qlora_share/qlora_share.py "$@"
