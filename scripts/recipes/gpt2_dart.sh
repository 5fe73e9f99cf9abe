# DART for GPT-2: LoRA's README refers to its paper's appendix, where this set has no regularisation at all. Sourced.
data_flags=(--weight_decay 0.0 --lora_dropout 0.0 --label_smoothing_factor 0.0)
length_penalty=0.8                      # the paper's appendix
score_flags=()
