# LLaMA-2-7B. Numbers: QLoRA's finetune_llama2_guanaco_7b.sh. Sourced.
base=meta-llama/Llama-2-7b-hf
recipe=qlora
model_flags=(--learning_rate 2e-4 --lora_dropout 0.1)
