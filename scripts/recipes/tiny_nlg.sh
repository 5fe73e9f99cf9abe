# What --tiny changes on a run with GPT-2, so that all three stages end within a minute on two cores. Sourced.
batch=16
length_flags=(--max_steps 120)
tiny_flags=(
  --warmup_steps 10 --eval_steps 60 --save_steps 60
  --per_device_eval_batch_size 16
  --learning_rate 4e-3                  # a small model needs larger steps
)
beam_flags+=(--eval_len 48)
score_flags+=(--without meteor)         # it needs Java and a large package
