"""Tune GPT-2 on E2E, WebNLG or DART with shared low-rank adapters.

    python NLG/gpt2_share_ft.py --train_data e2e --model_card gpt2.md --share a --lora_dim 4 --work_dir runs/e2e

The command line is that of LoRA's `gpt2_ft.py` with the sharing flags added; `--help` shows all of it. `--tiny` runs
the same on the project's own small model and data.
"""

from __future__ import annotations

import logging
import sys
import warnings


def main() -> None:
    """Parse, run, report."""
    # PEFT asks models for an attribute that transformers has renamed since.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    from transformers.utils.logging import disable_progress_bar

    from sharelora.training.machine import is_first
    from sharelora.training.nlg.arguments import parse
    from sharelora.training.nlg.job import run

    disable_progress_bar()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
    logging.getLogger("sharelora").setLevel(logging.INFO if is_first() else logging.ERROR)
    run(parse())


if __name__ == "__main__":
    from sharelora.errors import run_main

    run_main(main)
