"""Does a long run keep its memory, its open files and its speed? 20,000 updates of the main job on a small LLaMA.

    python benchmarks/memory/soak.py            20,000 updates, 80 checkpoints and evaluations; to docs/results/soak.md
    python benchmarks/memory/soak.py --quick    a minute, to see that it works; no documents

It is `qlora_share.py` as it is, in this process, on the model and the data that the project makes itself, with rows of
many lengths. After every window of updates the process is looked at: resident memory, open file handles, threads, and
the median time of an update, without evaluations and checkpoints, by the clock and in CPU time. Interrupted, it resumes
from its last checkpoint as any run does; earlier windows are kept, and memory starts again with the new process, which
the table shows.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import document_path, fill, flag_words, new_parser, silence_libraries
from benchmarks.harness.pool import logged
from benchmarks.harness.report import DOCUMENTS, ROOT, facts
from sharelora.reporting.document import write_document
from sharelora.support.errors import UserError, run_main
from sharelora.support.files import write_json
from sharelora.support.reading import read_json

RECIPE = {
    "share": "a",
    "lora_r": 8,
    "lora_dropout": 0.1,
    "optim": "adamw_torch",
    "lr_scheduler_type": "cosine",
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 8,
    "max_eval_samples": 16,
    "do_eval": True,
    "eval_strategy": "steps",
    "save_total_limit": 3,
    "use_cpu": True,
}
FULL = {"steps": 20_000, "windows": 40}
QUICK = {"steps": 40, "windows": 10}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--steps", type=int, help="updates (20000)")
    add("--windows", type=int, help="how often the process is looked at (40)")
    add("--bits", type=int, choices=(16, 32), default=16, help="16 computes in bf16, 32 in fp32")
    add("--threads", type=int, default=1, help="of torch")
    add("--output", default=str(ROOT / "runs" / "soak"), metavar="DIR", help="folder of the run")
    add("--document", default=str(DOCUMENTS / "soak.md"), metavar="FILE", help="the table as Markdown")
    add("--quick", action="store_true", help="in small, to see that it works; writes only into DIR")
    args = parser.parse_args(argv)
    return fill(args, QUICK if args.quick else FULL)


def words(args: argparse.Namespace, folder: Path) -> list[str]:
    """Return the command line of the job: two evaluations and two checkpoints in every window."""
    every = max(1, args.steps // args.windows // 2)
    rhythm = {"max_steps": args.steps, "logging_steps": every, "eval_steps": every, "save_steps": every}
    return ["--tiny", *flag_words({**RECIPE, **rhythm, "bits": args.bits, "output_dir": folder})]


def train(args: argparse.Namespace, folder: Path) -> None:
    """Do the run, as far as it is not done yet; its windows are written next to its folder.

    Raises:
        UserError: fewer updates than windows, or what the job refuses.
    """
    import torch

    from benchmarks.memory.soak_windows import FILE, Watch
    from sharelora.training.instructions.job import parse, run

    if args.windows < 8 or args.steps % args.windows:
        raise UserError(
            f"found --steps {args.steps} and --windows {args.windows}; need 8 windows or more of equally many updates"
        )
    torch.set_num_threads(args.threads)
    # Generated data, whatever the environment says.
    os.environ.pop("SHARELORA_DATA", None)
    with logged(folder.with_suffix(".log")):
        run(parse(words(args, folder)), watch=[Watch(folder.with_name(FILE), args.steps // args.windows)])


def main() -> None:
    """Run, and write the document with its pictures."""
    args = arguments()
    from transformers.utils.logging import disable_progress_bar

    from benchmarks.memory.soak_windows import FILE, compose, plot

    silence_libraries()
    disable_progress_bar()
    folder = Path(args.output) / ("quick" if args.quick else f"{args.bits}-bit")
    train(args, folder / "run")
    settings = {name: getattr(args, name) for name in ("steps", "windows", "bits", "threads")}
    result = {**facts("soak", settings), "windows": read_json(folder / FILE, [dict])}
    document = document_path(args)
    write_json(document.with_suffix(".json"), result)
    plot(result["windows"], document.with_suffix(""))
    write_document(document, compose(result, " ".join(words(args, Path("DIR")))))
    print(f"wrote {document}")


if __name__ == "__main__":
    run_main(main)
