# DeBERTa-v2 on GLUE: what LoRA's scripts share (its examples/NLU/deberta_v2_xxlarge_*.sh); query and value. Sourced.
recipe_flags=(
  --lora_r 16 --lora_alpha 32
  --lr_scheduler_type linear
  --fp16 true --use_deterministic_algorithms true
  --eval_strategy steps --save_strategy steps
  --seed 0
)
