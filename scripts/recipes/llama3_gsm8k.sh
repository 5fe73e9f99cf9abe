# GSM8K for LLaMA 3, as in the authors' finetune_gsm8k_llama3_8b_full.sh, but for what is marked. Sourced.
data_flags=(
  --dataset gsm8k --dataset_format GSM8K
  --source_max_len 1024 --target_max_len 512       # there 512, shorter than the 8-shot prompt: no question was ever seen
  --eval_dataset_size 500 --max_eval_samples 500   # carved from train; there the test split chose the checkpoint
  --save_total_limit 30
)
# The eight examples are a thousand tokens to a tiny vocabulary; two keep a tiny run short.
if [[ -n $tiny ]]; then data_flags+=(--few_shot 2); fi
