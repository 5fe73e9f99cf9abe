# LLaMA-7B. Numbers: QLoRA's finetune_guanaco_7b.sh. Sourced.
base=huggyllama/llama-7b
recipe=qlora
model_flags=(--learning_rate 2e-4 --lora_dropout 0.1)
