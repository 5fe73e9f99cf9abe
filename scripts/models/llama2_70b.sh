# LLaMA-2-70B. Numbers: QLoRA's finetune_guanaco_65b.sh (LLaMA-1, the nearest size). Sourced.
base=meta-llama/Llama-2-70b-hf
recipe=qlora
model_flags=(--learning_rate 1e-4 --lora_dropout 0.05)
