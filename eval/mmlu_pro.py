"""Score a language model, with or without an adapter, on MMLU-Pro: up to ten options, no chain of thought.

    python eval/mmlu_pro.py --model DIR --adapter runs/a --output runs/a_mmlu_pro

Prompts begin with five solved examples if the data has the validation split, else with none, and a warning says so.
Writes `predictions.jsonl`, one record per question, and `result.json`. `--tiny` runs the same on the project's own
small model and data.
"""

from __future__ import annotations

from sharelora.evaluation.exams import MMLU_PRO
from sharelora.support.errors import run_main

parser, main = MMLU_PRO.parser, MMLU_PRO.main

if __name__ == "__main__":
    run_main(main)
