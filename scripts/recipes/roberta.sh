# RoBERTa on GLUE: what LoRA's scripts share (its examples/NLU/roberta_{base,large}_*.sh); query and value. Sourced.
recipe_flags=(
  --lora_r 8 --lora_alpha 16
  --lr_scheduler_type linear --warmup_steps 0.06   # a fraction of all updates
  --weight_decay 0.1
  --eval_strategy epoch --save_strategy epoch
  --seed 0
)
