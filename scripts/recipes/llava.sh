# LLaVA-1.5 on conversations about images: the second ShareLoRA paper, Table 3. Sourced.
batch=64                                # examples per update
recipe_flags=(
  --lora_modules all                    # q, k, v, o, up, down, gate of the language model; the projector beside them
  --lora_r 64 --lora_alpha 128 --lora_dropout 0.05
  --per_device_train_batch_size 1 --per_device_eval_batch_size 1
  --num_train_epochs 1 --max_steps -1
  --learning_rate 2e-4 --lr_scheduler_type cosine --warmup_steps 0.03
  --optim adamw_torch --adam_beta2 0.999 --weight_decay 0 --max_grad_norm 1.0   # LLaVA's, where the paper is silent
  --model_max_length 2048 --chat_template vicuna
  --gradient_checkpointing true --train_sampling_strategy group_by_length
  --seed 0 --data_seed 42
  --do_train true --do_eval true --eval_dataset_size 512
  --eval_strategy steps --eval_steps 500
  --save_strategy steps --save_steps 500 --save_total_limit 3
)
