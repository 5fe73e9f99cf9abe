# LLaMA-2-13B. Numbers: QLoRA's finetune_guanaco_13b.sh (LLaMA-1, the same size). Sourced.
base=meta-llama/Llama-2-13b-hf
recipe=qlora
model_flags=(--learning_rate 2e-4 --lora_dropout 0.05)
