"""Tune one adapter on several tasks one after the other, score every task after every stage, report the forgetting.

    python eval/continual.py --model DIR --share none a b ab --output runs/continual --lora_r 8 --max_steps 200

Every other flag goes to the tuning of every stage: see `qlora_share/qlora_share.py --help`. Each way of sharing has a
folder with its stages and `result.json`; `continual.md` and a heat map compare them. A stage that is done is not done
again. `--tiny` runs the same on the project's own small model and data.
"""

from __future__ import annotations

from sharelora.continual.command import main, parser, read, run, sequence_of
from sharelora.support.errors import run_main

__all__ = ["main", "parser", "read", "run", "sequence_of"]

if __name__ == "__main__":
    run_main(main)
