# LLaVA-1.5-7B. Sourced.
base=llava-hf/llava-1.5-7b-hf
recipe=llava
