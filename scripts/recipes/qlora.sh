# LLaMA 1 and 2: what QLoRA's scripts for LLaMA share (its scripts/finetune_guanaco_{7b,13b,33b,65b}.sh). Sourced.
batch=16                                # examples per update: 1 x 16 there
recipe_flags=(
  --lora_modules all                    # QLoRA adapts every linear layer
  --lora_r 64 --lora_alpha 16
  --per_device_train_batch_size 1 --per_device_eval_batch_size 1
  --max_steps 1875                      # 30,000 examples
  --lr_scheduler_type constant
  --optim paged_adamw_32bit --adam_beta2 0.999 --weight_decay 0 --max_grad_norm 0.3
  --gradient_checkpointing true --train_sampling_strategy group_by_length
  --seed 0 --data_seed 42
  --do_train true --do_eval true
  --eval_strategy steps --eval_steps 187
  --save_strategy steps --save_steps 187   # there 500 or 200: the best checkpoint needs every evaluated step saved
  --save_total_limit 40
  --load_best_model_at_end true --metric_for_best_model eval_loss
)
