"""Score a language model, with or without an adapter, on MMLU.

    python eval/mmlu.py --model DIR --adapter runs/a --shots 5 --split test --output runs/a_mmlu

Writes `predictions.jsonl`, one record per question, and `result.json`. `--tiny` runs the same on the project's own
small model and data.
"""

from __future__ import annotations

from sharelora.evaluation.exams import MMLU
from sharelora.support.errors import run_main

parser, main = MMLU.parser, MMLU.main

if __name__ == "__main__":
    run_main(main)
