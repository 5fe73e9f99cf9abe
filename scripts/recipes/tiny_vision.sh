# What --tiny changes where images are read, so that a run ends within a minute or two on two cores. Sourced.
tiny_flags=(
  --max_steps 120 --eval_steps 60 --save_steps 60
  --gradient_accumulation_steps 1
  --per_device_train_batch_size $((16 / processes)) --per_device_eval_batch_size 16
  --learning_rate 2e-3                  # a small model needs larger steps
  --eval_dataset_size 64 --model_max_length 512
  --gradient_checkpointing false
  --bf16 false --bits 32                # most CPUs multiply 32-bit numbers faster
)
