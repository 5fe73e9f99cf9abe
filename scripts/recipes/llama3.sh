# LLaMA 3: what the ShareLoRA authors' scripts for LLaMA-3-8B share (their scripts/share/finetune_*_llama3_8b_full.sh). Sourced.
batch=16                                # examples per update: 1 x 16 there
recipe_flags=(
  --lora_modules "q_proj,v_proj"
  --lora_r 64 --lora_alpha 16
  --per_device_train_batch_size 1 --per_device_eval_batch_size 1
  --max_steps 3000
  --learning_rate 1e-4 --lr_scheduler_type constant
  --optim paged_adamw_32bit --adam_beta2 0.999 --weight_decay 0 --max_grad_norm 0.3
  --train_sampling_strategy random
  --seed 0 --data_seed 42
  --do_train true --do_eval true
  --eval_strategy steps --eval_steps 100
  --save_strategy steps --save_steps 100
  --load_best_model_at_end true --metric_for_best_model eval_loss
)
