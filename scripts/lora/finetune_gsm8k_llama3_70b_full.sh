#!/usr/bin/env bash
# Tune LLaMA-3-70B on GSM8K with LoRA adapters; 16-bit base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/lora/finetune_gsm8k_llama3_70b_full.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=none name=gsm8k_llama3_70b_full base=meta-llama/Meta-Llama-3-70B recipe=llama3 tiny_recipe=tiny_llama
flags=(--bits 16 --bf16 true --lora_dropout 0.05 --gradient_checkpointing true --dataset gsm8k --dataset_format GSM8K --source_max_len 1024
  --target_max_len 512 --eval_dataset_size 500 --max_eval_samples 500 --save_total_limit 30)
tiny_flags=(--few_shot 2 --keep_calculator false --bits 32)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune qlora_share/qlora_share.py "$@"
