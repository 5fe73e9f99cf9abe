"""Score a language model, with or without an adapter, on GSM8K: it writes worked answers, whose numbers are compared.

    python eval/gsm8k.py --model DIR --adapter runs/a --shots 8 --output runs/a_gsm8k

Writes `generations.jsonl` while it works and continues from there after a kill; then `predictions.jsonl`, one record
per question, and `result.json`. `--generate_only` writes `texts.jsonl` and scores nothing. `--tiny` runs the same on
the project's own small model and data.
"""

from __future__ import annotations

from sharelora.evaluation.commands import GSM8K
from sharelora.support.errors import run_main

parser, main = GSM8K.parser, GSM8K.main

if __name__ == "__main__":
    run_main(main)
