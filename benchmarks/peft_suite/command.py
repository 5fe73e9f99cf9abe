"""Run PEFT's own tests with a shared adapter in the place of LoRA and write a table of what passes."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path[:0] = [] if __package__ else [str(Path(__file__).resolve().parents[2])]

from benchmarks.harness.command import chosen_names, new_parser
from benchmarks.harness.report import DOCUMENTS, RESULTS, facts
from sharelora.support.errors import run_main
from sharelora.support.files import write_json

SHARES = ("none", "a", "ab")
FOLDER = "PEFT_SUITE"  # the environment variable


def arguments() -> argparse.Namespace:
    """Read the flags."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    default = os.environ.get(FOLDER) or "~/.cache/sharelora/peft_suite"
    add("--folder", default=default, help=f"for PEFT's tests, small models and outcomes; {FOLDER} unless given")
    add("--share", help=f"some of {','.join(SHARES)}; all unless given")
    add("--across", default="layers", help="share_across of the plans that share")
    add("--modules", help="test modules without test_, comma-separated; all that are about LoRA unless given")
    add("--jobs", type=int, default=2, help="processes")
    add("--again", action="store_true", help="run LoRA again although its outcomes are in the folder")
    add("--no-run", action="store_true", help="judge the outcomes that are in the folder")
    add("--save", action="store_true", help="write docs/results/peft_suite.md and benchmarks/results/peft_suite.json")
    return parser.parse_args()


def main() -> None:
    """Run, judge, print, and with --save write the document."""
    args = arguments()
    from benchmarks.peft_suite.document import compose
    from benchmarks.peft_suite.hub import prepare_hub
    from benchmarks.peft_suite.session import MODULES, Session
    from benchmarks.peft_suite.verdict import comparable, judge, module, summary
    from sharelora.reporting.document import write_document

    shares = chosen_names(args.share, SHARES, "way to share")
    modules = chosen_names(args.modules, MODULES, "test module")
    session = Session(Path(args.folder).expanduser(), args.jobs)
    prepare_hub(session.hub)
    if args.again or not session.file("lora").is_file():
        session.run("lora", "lora", args.across, MODULES)
    baseline = [outcome for outcome in session.read("lora") if module(outcome.test) in modules]
    runs = {}
    for share in shares:
        read = session.read(share) if args.no_run else None
        outcomes = session.run(share, share, args.across, modules, comparable(baseline)) if read is None else read
        runs[share] = summary(judge(baseline, outcomes))
    settings = {"shares": shares, "modules": modules, "across": args.across}
    result = {**facts("PEFT's own tests", settings), "runs": runs}
    text = compose(result)
    if args.save:
        write_json(RESULTS / "peft_suite.json", result)
        write_document(DOCUMENTS / "peft_suite.md", text)
    print(text)


if __name__ == "__main__":
    run_main(main)
