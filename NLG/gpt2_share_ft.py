"""Tune GPT-2 on E2E, WebNLG or DART with shared low-rank adapters.

    python NLG/gpt2_share_ft.py --train_data e2e --model_card gpt2.md --share a --lora_dim 4 --work_dir runs/e2e

The command line is that of LoRA's `gpt2_ft.py` with the sharing flags added; `--help` shows all of it. `--tiny` runs
the same on the project's own small model and data.
"""

from __future__ import annotations


def main() -> None:
    """Parse, run, report."""
    from sharelora.flags.program import start
    from sharelora.training.nlg.options import parse

    start(parse, "sharelora.training.nlg.job")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
