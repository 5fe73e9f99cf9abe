# E2E for GPT-2, as in LoRA's README. Sourced.
data_flags=(--weight_decay 0.01 --lora_dropout 0.1 --label_smoothing_factor 0.1)
length_penalty=0.8                      # the README's; the paper's appendix has 0.9: DECODE_FLAGS="--length_penalty 0.9"
score_flags=(--python)                  # NIST as measure_scores.py -p computes it, which the README calls
