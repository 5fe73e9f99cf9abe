# WebNLG 2017 for GPT-2: LoRA's README refers to its paper's appendix, which has the numbers of E2E. Sourced.
data_flags=(--weight_decay 0.01 --lora_dropout 0.1 --label_smoothing_factor 0.1)
length_penalty=0.8                      # the paper's appendix
score_flags=()
