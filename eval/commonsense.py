"""Score a language model, with or without an adapter, on the eight commonsense tasks of LLM-Adapters.

    python eval/commonsense.py --model DIR --adapter runs/a --tasks boolq,winogrande --output runs/a_commonsense

`--by likelihood` takes the most likely answer word, `--by generated` the first one that the model writes, `--by both`
does both. Writes `generations.jsonl` as texts end and continues from there after a kill; then `predictions.jsonl`, one
record per question, and `result.json`. `--generate_only` writes `texts.jsonl` and scores nothing. `--tiny` runs the
same on the project's own small model and data.
"""

from __future__ import annotations

from sharelora.evaluation.commands import COMMONSENSE
from sharelora.support.errors import run_main

parser, main = COMMONSENSE.parser, COMMONSENSE.main

if __name__ == "__main__":
    run_main(main)
