# Alpaca for LLaMA 3, as in the authors' finetune_alpaca_llama3_8b_full.sh. Sourced.
data_flags=(
  --dataset alpaca --dataset_format alpaca
  --source_max_len 512 --target_max_len 512
  --eval_dataset_size 3000 --max_eval_samples 3000
  --do_mmlu_eval true --mmlu_split eval # there a tenth of the test split; ours is the validation split
  --save_total_limit 20
)
