"""Train steps of Llama-3-8B shapes on one GPU, with the memory that adapters of LLaMA3-70B take. Started by `gpu.sh`.

Self-contained: random weights made on the device, random tokens, no files read, no network. It stops after
--seconds, measures the most important first, and says what it skipped.
"""

from __future__ import annotations

import argparse
import time
from importlib import metadata
from pathlib import Path

from benchmarks.harness.command import new_parser, silence_libraries
from sharelora.support.errors import UserError, run_main


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("--tiny", action="store_true", help="small shapes; runs on a CPU in less than a minute")
    parser.add_argument("--seconds", type=float, default=450, help="time to use, from the start of this program")
    parser.add_argument("--sections", help="comma-separated; all unless given")
    parser.add_argument("--device", help="cuda or cpu; a GPU if there is one")
    parser.add_argument("--output", type=Path, help="folder for the results (benchmarks/results; with --tiny runs/)")
    return parser.parse_args(argv)


def check_packages() -> None:
    """Refuse a version of PEFT that the library does not support.

    Raises:
        UserError: PEFT is absent or too old.
    """
    try:
        version = metadata.version("peft")
    except metadata.PackageNotFoundError:
        version = "none"
    if version == "none" or tuple(map(int, version.split(".")[:2])) < (0, 21):
        raise UserError(f"found peft {version}; need 0.21 or newer; bring its wheel: WHEELS=DIR bash benchmarks/gpu.sh")


def main() -> int:
    """Run, print, write; the exit code is 1 if a check failed."""
    began, args = time.monotonic(), arguments()
    silence_libraries()
    # A wrong PEFT would end the imports below with a traceback.
    check_packages()
    from benchmarks.gpu.run import run

    return run(args, began)


if __name__ == "__main__":
    run_main(main)
