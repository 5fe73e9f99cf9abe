"""Score a language model, with or without an adapter, on HumanEval: it completes functions, a sandbox tests them.

    python eval/humaneval.py --model DIR --adapter runs/a --samples 20 --temperature 0.2 --k 1 10 --output runs/a_code

Writes `generations.jsonl` and `outcomes.jsonl` while it works and continues from there after a kill; then
`predictions.jsonl`, one record per sample, and `result.json`. `--generate_only` writes `samples.jsonl` and executes
nothing; `--samples_file` tests completions from a file. `--tiny` runs the same on the project's own small model and
tasks.
"""

from __future__ import annotations

from sharelora.evaluation.commands import HUMANEVAL
from sharelora.support.errors import run_main

parser, main = HUMANEVAL.parser, HUMANEVAL.main

if __name__ == "__main__":
    run_main(main)
