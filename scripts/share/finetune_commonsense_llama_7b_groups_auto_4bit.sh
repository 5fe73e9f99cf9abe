#!/usr/bin/env bash
# Tune LLaMA-7B on eight commonsense tasks with LoRA modules shared in groups of similar layers, measured when the run starts; 4-bit (NF4) base.
# Usage: [MODEL=DIR] [OUTPUT_DIR=DIR] [SHARELORA_DATA=DIR] [NPROC=N] bash scripts/share/finetune_commonsense_llama_7b_groups_auto_4bit.sh [--tiny] [FLAGS]
set -euo pipefail
# Written by scripts/generate.py; --help says what it runs.
share=ab name=commonsense_llama_7b_groups_auto_4bit base=huggyllama/llama-7b recipe=commonsense tiny_recipe=tiny_llama
flags=(--bits 4 --quant_type nf4 --double_quant true --bf16 true --share_groups auto --similarity_sample c4 --similarity_threshold 0.85
  --expand_rank tables)
tiny_flags=(--warmup_steps 10 --similarity_sample commonsense --similarity_texts 16 --similarity_threshold 0.5)
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../common/run.sh"
tune qlora_share/qlora_share.py "$@"
