"""The command `eval/continual.py`: its own flags, the words for the tuning, and the run from stage to stage."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sharelora.flags.fields import add_fields, help_field, take
from sharelora.flags.parser import Parser, positive, tiny_environment, unknown_flag
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable, vanishing

if TYPE_CHECKING:
    from sharelora.continual.sequence import TaskSequence

logger = logging.getLogger(__name__)
# Flags of the tuning that this command sets itself -> what to use instead.
OWN = {
    "model_name_or_path": "use --model",
    "output_dir": "use --output",
    "dataset": "use --tasks",
    "dataset_format": "every task has its own; use --tasks",
    "adapter": "the first stage starts from the base model; drop it",
    "checkpoint": "the first stage starts from the base model; drop it",
    "overwrite_output_dir": "choose another --output",
    "full_finetune": "adapters are compared; drop it",
    "share_plan": "ways of sharing are compared; use --share",
    "max_mmlu_samples": "use --limit",
}


@dataclass(frozen=True)
class ContinualOptions:
    """The flags of this command alone."""

    model: str | None = help_field(None, "folder or hub id of the base model")
    tasks: Sequence[str] = help_field(lambda: ["alpaca", "gsm8k", "code"], "what to learn, in this order", nargs="+")
    share: Sequence[str] = help_field(
        lambda: ["none", "a", "b", "ab"], "ways of sharing, one after the other", nargs="+"
    )
    score: str = help_field("answer_loss", "of every task after every stage", choices=("answer_loss", "accuracy"))
    limit: int | None = help_field(None, "most questions of each task, with --score accuracy", type=positive)
    output: str = help_field("runs/continual", "folder for the stages and results")
    report: str | None = help_field(None, "folder for continual.md and the heat map; by default that of --output")
    tiny: bool = help_field(tiny_environment, "use the project's own small model and data, and few updates")
    dry_run: bool = help_field(
        False, "check everything, print the plans and estimates, and stop before loading weights"
    )


def parser() -> Parser:
    """Return the parser with every flag of this command alone."""
    own = Parser("continual.py", "Tune tasks one after the other; any other flag goes to the tuning of every stage.")
    add_fields(own, ContinualOptions, "flags")
    return own


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    began = time.monotonic()
    options, words = read(sys.argv[1:] if argv is None else argv)
    # Loads torch and transformers, which `--help` need not wait for.
    from sharelora.flags import program

    program.start(lambda: options, lambda options: run(options, words, began))


def read(argv: Sequence[str]) -> tuple[ContinualOptions, list[str]]:
    """Divide a command line into this command's flags and the words for the tuning.

    Raises:
        UserError: a flag that neither has, a value without a flag, or a flag that this command sets itself.
    """
    own = parser()
    values, words = own.parse_known_args(list(argv))
    options: ContinualOptions = take(ContinualOptions, values)
    if words and not words[0].startswith("--"):
        raise UserError(f"found the value {words[0]!r} without a flag before it; need --flag value; see --help")
    # The flags of the tuning are those of transformers, which `--help` need not wait for.
    from sharelora.flags.upstream import RULES
    from sharelora.training.instructions.job import build_parser

    flags = build_parser().flags
    for word in (word for word in words if word.startswith("--")):
        name = word[2:].partition("=")[0].replace("-", "_")
        if name in OWN:
            raise UserError(f"found --{name}, which this command sets itself; {OWN[name]}")
        if f"--{name}" not in flags and name.removeprefix("no_") not in (*RULES, *(flag[2:] for flag in flags)):
            raise unknown_flag(word, [*own.flags, *flags])
    return replace(options, share=split(options.share), tasks=split(options.tasks)), words


def split(words: Sequence[str]) -> list[str]:
    """Read names with spaces or commas between them."""
    return [name.strip() for word in words for name in word.split(",")]


def run(options: ContinualOptions, words: Sequence[str], began: float) -> None:
    """Check, tune, score, report.

    Args:
        options: the flags of this command.
        words: those of the tuning.
        began: start of the command, by `time.monotonic`.

    Raises:
        UserError: an error that the user can fix; found before a model is loaded wherever possible.
    """
    # These load the training.
    from sharelora.continual import report, stages
    from sharelora.continual.sequence import SETTINGS

    sequence = sequence_of(options, words)
    measures = stages.prepare(sequence)
    if options.dry_run:
        stages.check(sequence, options.share)
        count, ways = len(options.tasks), len(options.share)
        logger.info("dry run: %s, %d stages for each of %d ways of sharing", options.tasks, count, ways)
        return
    results = []
    with vanishing(sequence.output, SETTINGS):
        require_writable(sequence.output)
        sequence.remember()
        for share in options.share:
            results.append(stages.run_share(sequence, share, measures))
            report.write_share_result(sequence, results[-1])
    files = report.write_document(sequence, results, Path(options.report or options.output))
    print(report.summary_table(sequence, results))
    if len(files) == 1:
        print("no heat map: matplotlib is not installed; pip install -e .[plots]")
    print(f"{time.monotonic() - began:.0f} s; wrote {', '.join(map(str, files))}")


def sequence_of(options: ContinualOptions, words: Sequence[str]) -> TaskSequence:
    """Return the sequence that the flags mean.

    Raises:
        UserError: no model, an unknown way of sharing or one named twice, or see `TaskSequence`.
    """
    from sharelora.continual.sequence import SHARES, TaskSequence

    shares = options.share
    if not set(shares) <= set(SHARES) or len(set(shares)) < len(shares):
        raise UserError(f"found --share {','.join(shares)}; need some of {', '.join(SHARES)}, each once; change it")
    if options.model is None and not options.tiny:
        raise UserError("found neither --model nor --tiny; need a base model; add --model DIR")
    named = ["--model_name_or_path", options.model] if options.model else []
    return TaskSequence(
        tuple(options.tasks), options.score, Path(options.output), (*named, *words), options.limit, options.tiny
    )
