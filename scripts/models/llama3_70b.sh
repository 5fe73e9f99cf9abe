# LLaMA-3-70B. There is no published script: the authors' for 8B, with QLoRA's dropout and checkpointing for 65B. Sourced.
base=meta-llama/Meta-Llama-3-70B
recipe=llama3
model_flags=(--lora_dropout 0.05 --gradient_checkpointing true)
