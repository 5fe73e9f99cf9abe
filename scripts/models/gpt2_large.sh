# GPT-2 large, LoRA's gpt2.lg. Sourced.
base=openai-community/gpt2-large
recipe=gpt2
