# LLaMA-13B. Numbers: QLoRA's finetune_guanaco_13b.sh. Sourced.
base=huggyllama/llama-13b
recipe=qlora
model_flags=(--learning_rate 2e-4 --lora_dropout 0.05)
