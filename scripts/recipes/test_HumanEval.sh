# HumanEval with the numbers of the authors' HumanEval_generate_llama3_8b_full.sh, of an adapter tuned on code. Sourced.
data=code entry=humaneval.py
test_flags=(--samples 1 --k 1 --max_new_tokens 1024 --temperature 0.2 --top_p 0.95)
# The functions of the tiny tasks have one line.
if [[ -n $tiny ]]; then test_flags+=(--max_new_tokens 64); fi
