# Alpaca for LLaMA 1 and 2. Lengths: QLoRA's Alpaca script (its scripts/finetune.sh); evaluation: its guanaco scripts. Sourced.
data_flags=(
  --dataset alpaca --dataset_format alpaca
  --source_max_len 384 --target_max_len 128
  --eval_dataset_size 1024 --max_eval_samples 1000
  --do_mmlu_eval true --mmlu_split eval # reported during training; never on the test split
)
