# CodeAlpaca for LLaMA 3, as in the authors' finetune_code_llama3_8b_full.sh. Sourced.
data_flags=(
  --dataset hf_codealpaca --dataset_format HF_CODE
  --source_max_len 512 --target_max_len 1024
  --eval_dataset_size 500 --max_eval_samples 500   # carved from train; there the test split chose the checkpoint
  --save_total_limit 30
)
