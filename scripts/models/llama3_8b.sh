# LLaMA-3-8B. Numbers: the ShareLoRA authors' scripts. Sourced.
base=meta-llama/Meta-Llama-3-8B
recipe=llama3
model_flags=(--lora_dropout 0.1 --gradient_checkpointing false)
