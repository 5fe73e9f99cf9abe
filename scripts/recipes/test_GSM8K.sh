# GSM8K with the numbers of the authors' GSM8K_generate_llama3_8b_full.sh, of an adapter tuned on it. Sourced.
data=gsm8k entry=gsm8k.py
test_flags=(--split test --shots 8 --max_new_tokens 512 --temperature 0.6 --top_p 0.95)
# A tiny model was tuned with two examples, and its answers are short.
if [[ -n $tiny ]]; then test_flags+=(--shots 2 --max_new_tokens 64); fi
