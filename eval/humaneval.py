"""Score a language model, with or without an adapter, on HumanEval: it completes functions, a sandbox tests them.

    python eval/humaneval.py --model DIR --adapter runs/a --samples 20 --temperature 0.2 --k 1 10 --output runs/a_code

Writes `generations.jsonl` and `outcomes.jsonl` while it works and goes on from there after a kill; then
`predictions.jsonl`, one record per sample, and `result.json`. `--generate_only` writes `samples.jsonl` and executes
nothing; `--samples_file` tests completions that are there already. `--tiny` runs the same on the project's own small
model and tasks.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sharelora.evaluation import command
from sharelora.flags.parser import Parser, positive

if TYPE_CHECKING:
    from sharelora.data.humaneval import CodeProblem
    from sharelora.evaluation.generation.job import Produced
    from sharelora.evaluation.humaneval import Sample
    from sharelora.evaluation.programs import Runner

logger = logging.getLogger("sharelora.eval.humaneval")
# What --generate_only writes and --samples_file reads; predictions.jsonl belongs to result.json.
SAMPLES = "samples.jsonl"


def parser() -> Parser:
    """Every flag of this command."""
    from sharelora.data.humaneval import STOP
    from sharelora.evaluation.generation import job
    from sharelora.sandbox import BUBBLEWRAP, MODES, RLIMITS

    made = Parser("humaneval.py", "pass@k on HumanEval, and every completion with what came of it.")
    command.add_flags(made, "runs/humaneval", "tasks")
    add = made.add_argument
    add("--samples", type=int, default=1, help="completions per task")
    add("--k", type=positive, nargs="+", default=[1], help="every k of pass@k")
    add("--samples_file", metavar="FILE", help="test these completions (task_id, completion) and generate none")
    add("--sandbox", choices=list(MODES), default=BUBBLEWRAP, help=f"where programs run; {RLIMITS} protects no files")
    add("--seconds", type=float, default=3.0, help="that a program may take")
    add("--workers", type=positive, default=os.cpu_count() or 1, help="programs at once")
    job.add_flags(made, 512, STOP)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Generate, test and report."""
    command.start(parser(), argv, run)


def run(args: argparse.Namespace, began: float) -> None:
    """Check, load, generate, test, write.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    from sharelora.data.humaneval import load_humaneval

    check(args)
    runner = None if args.generate_only or args.dry_run else sandbox(args)
    every = load_humaneval(command.data_root(args))
    tasks = command.chosen(args, every)
    if args.samples_file:
        score(args, began, None, read(args, tasks, every), None, runner)
    else:
        generate(args, began, tasks, runner)


def check(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises:
        UserError: the first of them.
    """
    from sharelora.evaluation.generation import job
    from sharelora.evaluation.humaneval import require_samples
    from sharelora.support.errors import UserError

    if not (math.isfinite(args.seconds) and args.seconds > 0):
        raise UserError(f"found --seconds {args.seconds}; need a number above 0; change it")
    if args.samples_file and args.generate_only:
        raise UserError("found --generate_only with --samples_file; need one of them; leave one out")
    if not args.samples_file:
        job.settings(args, args.samples)
        if not args.generate_only:
            require_samples(args.k, args.samples, "--samples")


def sandbox(args: argparse.Namespace) -> Runner:
    """Return what executes programs.

    Raises:
        UserError: the sandbox that the flags name does not work here.
    """
    from sharelora.sandbox import Limits, require_sandbox, run_program

    limits = Limits(seconds=args.seconds, cpu_seconds=math.ceil(args.seconds))
    require_sandbox(args.sandbox)
    return lambda program: run_program(program.source, program.test, limits, args.sandbox)


def read(args: argparse.Namespace, tasks: Sequence[CodeProblem], every: Sequence[CodeProblem]) -> list[Sample]:
    """Read the samples of the chosen tasks, out of all, from the file that the flags name."""
    from sharelora.evaluation.humaneval import read_samples, require_samples

    samples, others = read_samples(args.samples_file, tasks, every)
    if others:
        logger.warning("warning: %d samples of tasks that are not among the %d chosen are LEFT OUT", others, len(tasks))
    require_samples(args.k, min(Counter(sample.task.task_id for sample in samples).values()), args.samples_file)
    return samples


def generate(args: argparse.Namespace, began: float, tasks: Sequence[CodeProblem], runner: Runner | None) -> None:
    """Generate samples; test them unless there is nothing to do it with."""
    from sharelora.evaluation.generation import job
    from sharelora.evaluation.humaneval import samples_of, write_prompts

    subject = command.locate(args)
    asked = job.prepare(args, subject, write_prompts(tasks), job.settings(args, args.samples))
    if args.dry_run:
        logger.info("dry run: %s, %d tasks; nothing was written", subject, len(tasks))
        return
    made = job.produce(asked, "HumanEval")
    samples = samples_of(tasks, made.texts, args.samples)
    if args.generate_only:
        path = command.write_rows(args, (sample.row() for sample in samples), SAMPLES)
        print(f"{made.line()}\nwrote {path}; nothing was executed")
        return
    score(args, began, subject, samples, made, runner)


def score(
    args: argparse.Namespace,
    began: float,
    subject: command.Subject | None,
    samples: Sequence[Sample],
    made: Produced | None,
    runner: Runner | None,
) -> None:
    """Test samples and report."""
    from pathlib import Path

    from sharelora.evaluation.humaneval import Report, table
    from sharelora.evaluation.programs import OutcomeStore, judge
    from sharelora.reporting.progress import Progress
    from sharelora.support.files import require_writable

    if runner is None:
        logger.info("dry run: %d samples; nothing was executed or written", len(samples))
        return
    kept = OutcomeStore(require_writable(Path(args.output)), args.overwrite)
    programs = [sample.program for sample in samples]
    conditions = {"sandbox": args.sandbox, "seconds": args.seconds}
    outcomes = judge(programs, runner, conditions, args.workers, kept, Progress("testing", unit="programs"))
    report = Report(samples, outcomes, args.k)
    metrics = {**report.metrics(), **({} if made is None else made.metrics())}
    model = None if made is None else made.model
    command.write(args, "humaneval", subject, model, report.rows(), metrics, time.monotonic() - began)
    print(table(metrics))
    print(("" if made is None else f"{made.line()}\n") + f"wrote {args.output}")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
