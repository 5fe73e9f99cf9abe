# Commonsense tasks for every LLaMA: LLM-Adapters' finetune.py with the modules and the rank of the second ShareLoRA paper.
# A recipe of its own: nothing of the model's other recipe is used. Sourced.
batch=16                                # examples per update: 4 x 4 there
model_flags=()
recipe_flags=(
  --lora_modules "q_proj,k_proj,v_proj,up_proj,down_proj"
  --lora_r 8 --lora_alpha 16 --lora_dropout 0.05
  --per_device_train_batch_size 1 --per_device_eval_batch_size 1
  --max_steps -1 --num_train_epochs 3
  --learning_rate 3e-4 --lr_scheduler_type linear --warmup_steps 100
  --optim adamw_torch --adam_beta2 0.999 --weight_decay 0 --max_grad_norm 1.0
  --gradient_checkpointing true --train_sampling_strategy random
  --seed 0 --data_seed 42
  --do_train true --do_eval true
  --eval_strategy steps --eval_steps 200
  --save_strategy steps --save_steps 200 --save_total_limit 3
  --load_best_model_at_end true --metric_for_best_model eval_loss
)
data_flags=(
  --dataset commonsense --dataset_format alpaca
  --source_max_len 224 --target_max_len 32   # there 256 in all, cut at the end, where the answer stands
  --train_on_source true                     # there prompts count in the loss
  --eval_dataset_size 120 --max_eval_samples 120
)
if [[ -n $tiny ]]; then recipe_flags+=(--warmup_steps 10); fi
