"""Decode a data-to-text set with beam search, with the meaning and the flags of LoRA's gpt2_beam.py.

    python NLG/gpt2_beam.py --data e2e --adapter runs/a --beam 10 --length_penalty 0.8 --eval_len 64 --work_dir runs/b

Each distinct input is decoded once. Writes `predictions.jsonl`, token ids for every row; `predictions.txt`, one line
per distinct input; `result.json`; and `hypotheses.jsonl`, from which an interrupted run continues. `--tiny` runs the
same on the project's own small model and data.
"""

from __future__ import annotations


def main() -> None:
    """Parse, run, report."""
    from sharelora.evaluation.beam.arguments import parse
    from sharelora.flags.program import start

    start(parse, "sharelora.evaluation.beam.job")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
