"""Tune a LLaMA, or another causal language model, on instructions with shared low-rank adapters.

    python qlora_share/qlora_share.py --model_name_or_path DIR --dataset alpaca --share a --bits 16 --output_dir runs/a

The command line is QLoRA's with the sharing flags added; `--help` shows all of it. `--tiny` runs the same on the
project's own small model and data.
"""

from __future__ import annotations


def main() -> None:
    """Parse, run, report."""
    from sharelora.flags.program import start
    from sharelora.training.instructions.options import parse

    start(parse, "sharelora.training.instructions.job")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
