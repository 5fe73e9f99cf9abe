"""PEFT's own tests with a shared adapter in the place of LoRA: what passes, what is refused, what fails.

    make peft-suite                                       all of it; the table goes to docs/results/peft_suite.md
    python benchmarks/peft_suite/suite.py --share a --modules mixed,lora_variants

The tests come from the source package of the PEFT that is installed, so the first run needs the package index; models
from the hub are replaced by small random ones. LoRA is run once, and its outcomes are kept in the folder; the ways to
share run the tests that passed with it. On two quiet cores LoRA and each way to share take about twelve minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import chosen_names, new_parser
from benchmarks.harness.report import DOCUMENTS, RESULTS, facts
from sharelora.reporting.document import write_document
from sharelora.support.errors import UserError, run_main
from sharelora.support.files import require_writable, write_json

SHARES = ("none", "a", "ab")
FOLDER, CACHE = "PEFT_SUITE", "SHARELORA_CACHE"  # environment variables


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--folder", type=Path, help=f"of the tests, models and outcomes; {FOLDER}, or one in the cache, unless given")
    add("--share", help=f"some of {','.join(SHARES)}; all unless given")
    add("--across", default="layers", help="share_across of the ways that share")
    add("--modules", help="test modules without test_, separated by commas; all that are about LoRA unless given")
    add("--jobs", type=int, default=2, help="processes")
    add("--again", action="store_true", help="run LoRA again although its outcomes are in the folder")
    add("--judge", action="store_true", help="run nothing: judge the outcomes that are in the folder")
    add("--save", action="store_true", help="write docs/results/peft_suite.md and benchmarks/results/peft_suite.json")
    return parser.parse_args(argv)


def default_folder() -> Path:
    """Return the folder that is used unless one is given."""
    cache = os.environ.get(CACHE) or "~/.cache/sharelora"
    return Path(os.environ.get(FOLDER) or Path(cache) / "peft_suite").expanduser().resolve()


def main() -> None:
    """Run, judge, print, and with --save write the document."""
    args = arguments()
    from benchmarks.peft_suite.document import compose
    from benchmarks.peft_suite.hub import prepare_hub
    from benchmarks.peft_suite.session import LORA, MODULES, Session
    from benchmarks.peft_suite.verdict import comparable, judge, module, summary

    shares = chosen_names(args.share, SHARES, "way to share")
    modules = chosen_names(args.modules, MODULES, "test module")
    if args.save and set(modules) != set(MODULES):
        raise UserError("found --save with --modules; need all of them in a document; leave out one of the flags")
    session = Session(require_writable((args.folder or default_folder()).resolve()), args.jobs)
    prepare_hub(session.hub)
    if not args.judge and (args.again or not session.has(LORA)):
        session.run(LORA, args.across, MODULES)
    baseline = [outcome for outcome in session.read(LORA) if module(outcome.test) in modules]
    runs = {}
    for share in shares:
        if not args.judge:
            session.run(share, args.across, modules, comparable(baseline))
        runs[share] = summary(judge(baseline, session.read(share)))
    settings = {"across": args.across, "modules": modules, "jobs": args.jobs}
    result = {**facts("PEFT's own tests", settings), "runs": runs}
    text = compose(result)
    if args.save:
        write_json(RESULTS / "peft_suite.json", result)
        write_document(DOCUMENTS / "peft_suite.md", text)
    print(text)


if __name__ == "__main__":
    run_main(main)
