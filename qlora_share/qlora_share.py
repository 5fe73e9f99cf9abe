"""Tune a LLaMA, or another causal language model, on instructions with shared low-rank adapters.

    python qlora_share/qlora_share.py --model_name_or_path DIR --dataset alpaca --share a --bits 16 --output_dir runs/a

The command line is QLoRA's with the sharing flags added; `--help` shows all of it. `--tiny` runs the same on the
project's own small model and data.
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

    from sharelora.training.arguments import parse
    from sharelora.training.job import run
    from sharelora.training.machine import is_first

    disable_progress_bar()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
    logging.getLogger("sharelora").setLevel(logging.INFO if is_first() else logging.ERROR)
    run(parse())


if __name__ == "__main__":
    from sharelora.errors import run_main

    run_main(main)
