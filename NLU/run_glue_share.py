"""Tune an encoder on a GLUE task, or on own files, with shared low-rank adapters or one of the usual baselines.

    python NLU/run_glue_share.py --model_name_or_path DIR --task_name cola --share a --output_dir runs/cola

The command line is that of LoRA's run_glue.py with the sharing flags and `--method` added; `--help` shows all of it.
`--tiny` runs the same on the project's own small model and data.
"""

from __future__ import annotations


def main() -> None:
    """Parse, run, report."""
    from sharelora.flags.program import start
    from sharelora.training.glue.options import parse

    start(parse, "sharelora.training.glue.job")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
