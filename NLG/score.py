"""Score generated text as the E2E challenge and LoRA's recipes for WebNLG and DART do.

    python NLG/score.py --task e2e --references e2e_ref.txt --predictions e2e_pred.txt
    python NLG/score.py --task webnlg --predictions runs/a/predictions.jsonl --tokenizer MODEL_DIR

Prints the scores and writes them to `result.json`. METEOR needs Java and the package pycocoevalcap; `--without meteor`
does without them.
"""

from __future__ import annotations

import logging
import sys


def main() -> None:
    """Parse, score, report."""
    from sharelora.evaluation.nlg_score import parse, run

    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
    logging.getLogger("sharelora").setLevel(logging.INFO)
    run(parse())


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
