"""Commands on runs: `sharelora compare` prints their results, `sharelora ablate` trains a grid of settings."""

from __future__ import annotations

import argparse

from sharelora.flags.parser import Parser
from sharelora.reporting.compare import compare


def add_compare_flags(parser: Parser) -> None:
    """Add the flags of `sharelora compare`."""
    parser.add_argument("paths", nargs="+", help="result files or folders of runs, ours and upstream's")
    parser.switch("--by_seed", help="one row for runs that differ only in the seed: mean ± standard deviation")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="which metrics to show")
    parser.switch("--markdown", help="write a Markdown table")


def run_compare(args: argparse.Namespace) -> None:
    """Print the runs in one table."""
    print(compare(args.paths, args.by_seed, args.metrics, args.markdown))


def add_ablate_flags(parser: Parser) -> None:
    """Add the flags of `sharelora ablate`."""
    parser.add_argument("grid", help="YAML file: flags of all runs, seeds, and what is varied")
    parser.add_argument(
        "--output", default="runs/ablation", metavar="DIR", help="a folder for each run, and the tables"
    )
    parser.add_argument("--only", choices=("plan", "table"), help="print the runs, or the tables of what has ended")


def run_ablate(args: argparse.Namespace) -> None:
    """Train the grid and draw its tables."""
    # The training takes seconds to load.
    from sharelora.trainer.signals import ending
    from sharelora.training.ablation.command import ablate

    # A training must not outlive this process: the next call would train in the same folder.
    with ending():
        ablate(args.grid, args.output, args.only)
