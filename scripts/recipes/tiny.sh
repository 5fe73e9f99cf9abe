# What --tiny changes on any run, so that it ends within a minute on two cores. Sourced.
tiny_flags=(
  --max_steps 160 --eval_steps 80 --save_steps 80
  --gradient_accumulation_steps 1
  --per_device_train_batch_size $((batch / processes)) --per_device_eval_batch_size 16
  --learning_rate 4e-3                  # a small model needs larger steps
  --mmlu_dataset mmlu-zs                # it has only seen prompts without examples of the new words
  --eval_dataset_size 64 --max_eval_samples 64
  --bf16 false                          # most CPUs multiply 32-bit numbers faster
  --optim adamw_torch                   # the paged optimizer needs a GPU
)
if [[ $precision == full ]]; then tiny_flags+=(--bits 32); fi
