# GPT-2 medium, LoRA's gpt2.md. Sourced.
base=openai-community/gpt2-medium
recipe=gpt2
