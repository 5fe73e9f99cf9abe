# GPT-2 medium and large: what LoRA's E2E, WebNLG and DART have in common (its examples/NLG/README.md and its paper's
# appendix on GPT-2, which names the same numbers for both sizes). Sourced.
batch=8                                 # examples per update
length_flags=(--num_train_epochs 5)
recipe_flags=(
  --lora_r 4 --lora_alpha 32            # on query and value, which gpt2_share_ft.py adapts by itself
  --per_device_eval_batch_size 4
  --seq_len 512
  --learning_rate 2e-4 --scheduler linear --warmup_steps 500
  --correct_bias true --adam_beta2 0.999 --max_grad_norm 0.0
  --save_steps 1000
  --seed 110
)
# Texts also end at a blank line: `--eos_token_id 628` there, gpt2_beam.py's own choice here.
beam_flags=(
  --beam 10 --no_repeat_ngram_size 4 --repetition_penalty 1.0
  --seq_len 512 --eval_len 64
)
