# What --tiny changes on a GLUE run, so that it ends within a minute on two cores. Sourced.
tiny_flags=(
  --num_train_epochs 3
  --per_device_train_batch_size $((processes < 16 ? 16 / processes : 1)) --gradient_accumulation_steps 1
  --learning_rate 2e-3                  # a small model needs larger steps
  --max_seq_length 64
  --warmup_steps 0.06
  --eval_strategy epoch --save_strategy epoch
  --fp16 false                          # that needs a GPU
)
