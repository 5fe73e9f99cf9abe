"""Does a long run keep its memory, its open files and its speed? 20,000 updates of the main job on a small LLaMA.

    python benchmarks/soak.py              20,000 updates, 80 checkpoints and evaluations; to docs/results/soak.md
    python benchmarks/soak.py --quick      a minute, to see that it works; no documents

It is `qlora_share.py` as it is, in this process, on the model and the data that the project makes itself, with rows of
many lengths. After every window of updates the process is looked at: resident memory, open file handles, threads, and
the median time of an update, without evaluations and checkpoints, by the clock and by the processor's own. Interrupted,
it goes on from its last checkpoint as any run does; what was seen before stays, and memory starts anew with the new
process, which the table shows.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "results" / "soak.md"
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
QUICK = {"steps": 40, "windows": 10}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--steps", type=int, help="updates (20000)")
    add("--windows", type=int, help="how often the process is looked at (40)")
    add("--bits", type=int, choices=(16, 32), default=16, help="16 computes in bf16, 32 in fp32")
    add("--threads", type=int, default=1, help="of torch")
    add("--output", default=str(ROOT / "runs" / "soak"), metavar="DIR", help="where the run lies")
    add("--document", default=str(DOCUMENT), metavar="FILE", help="the table as Markdown")
    add("--quick", action="store_true", help="in small, to see that it works; writes into DIR alone")
    given = parser.parse_args(argv)
    for name, value in (QUICK if given.quick else {"steps": 20_000, "windows": 40}).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def words(given: argparse.Namespace, folder: Path) -> list[str]:
    """Return the command line of the job: two evaluations and two checkpoints in every window."""
    every = max(1, given.steps // given.windows // 2)
    rhythm = {"max_steps": given.steps, "logging_steps": every, "eval_steps": every, "save_steps": every}
    flags = {**RECIPE, **rhythm, "bits": given.bits, "output_dir": folder}
    return ["--tiny", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]


def train(given: argparse.Namespace, folder: Path) -> None:
    """Do the run, as far as it is not done yet; what is seen of it goes into its folder.

    Raises:
        UserError: fewer updates than windows, or what the job refuses.
    """
    import torch

    from benchmarks.run_log import logged
    from benchmarks.soak_watch import FILE, Watch
    from sharelora import UserError
    from sharelora.training.instructions.job import parse, run

    if given.windows < 8 or given.steps % given.windows:
        raise UserError(
            f"found --steps {given.steps} and --windows {given.windows}; need 8 windows or more of equally many updates"
        )
    torch.set_num_threads(given.threads)
    # Made data, whatever the environment says.
    os.environ.pop("SHARELORA_DATA", None)
    with logged(folder.with_suffix(".log"), "a"):
        run(parse(words(given, folder)), watch=[Watch(folder.with_name(FILE), given.steps // given.windows)])


def main() -> None:
    """Run, and write the document with its pictures."""
    given = arguments()
    from transformers.utils.logging import disable_progress_bar

    from benchmarks import report
    from benchmarks.glue_document import write_document
    from benchmarks.soak_table import compose, plot
    from benchmarks.soak_watch import FILE
    from sharelora.support.files import read_json, write_json

    # PEFT asks models for an attribute that transformers has renamed since.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    disable_progress_bar()
    folder = Path(given.output) / ("quick" if given.quick else f"{given.bits}-bit")
    train(given, folder / "run")
    settings = {name: getattr(given, name) for name in ("steps", "windows", "bits", "threads")}
    result = {**report.facts("soak", settings), "windows": read_json(folder / FILE)}
    document = folder / "soak.md" if given.quick else Path(given.document)
    write_json(document.with_suffix(".json"), result)
    plot(result["windows"], document.with_suffix(""))
    write_document(document, compose(result, " ".join(words(given, Path("DIR")))))
    print(f"wrote {document}")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
