"""One training of a grid, in a process of its own: `python -m sharelora.training.ablation.worker FLAGS`."""

from __future__ import annotations


def main() -> None:
    """Parse, run, report."""
    from sharelora.flags.program import start
    from sharelora.training.instructions.job import parse, run

    start(parse, run)


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
