"""HumanEval: functions that a model completes, or a file has completed; a sandbox tests them."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharelora import sandbox
from sharelora.data.humaneval import CodeProblem, load_humaneval
from sharelora.data.rows import BadCell, Row, cell, parse_rows, read_rows, summary
from sharelora.evaluation.commands import HumanEvalOptions
from sharelora.evaluation.generation.job import (
    GenerationResult,
    generate_texts,
    generation_settings,
    prepare_generation,
    write_texts,
)
from sharelora.evaluation.generation.settings import Generated, Prompt
from sharelora.evaluation.programs import OutcomeStore, Program, Runner, judge
from sharelora.evaluation.subject import Subject, data_root, locate_subject, write_evaluation
from sharelora.metrics.pass_at_k import over_tasks, pass_at_k
from sharelora.reporting.progress import Progress
from sharelora.sandbox import Limits, Outcome
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable

logger = logging.getLogger(__name__)

# What --generate_only writes and --samples_file reads; predictions.jsonl belongs to result.json.
SAMPLES = "samples.jsonl"


def run(options: HumanEvalOptions, began: float) -> None:
    """Generate completions or read them, test them in a sandbox, write and print.

    Args:
        options: the flags.
        began: when the command did, by `time.monotonic`.

    Raises:
        UserError: an error that the user can fix; found before the model is loaded wherever possible.
    """
    _check(options)
    runner = None if options.generate_only or options.dry_run else _sandboxed(options)
    every = load_humaneval(data_root(options.data_root, options.tiny))
    tasks = options.choose(every)
    subject = result = None
    if options.samples_file:
        samples = _samples_of_file(options, tasks, every)
    else:
        subject = locate_subject(options)
        job = prepare_generation(options, subject, write_prompts(tasks), options.samples)
        if options.dry_run:
            logger.info("dry run: %s, %d tasks; nothing was written", subject, len(tasks))
            return
        result = generate_texts(job, "HumanEval")
        samples = samples_of(tasks, result.texts, options.samples)
        if options.generate_only:
            rows = (sample.row() for sample in samples)
            print(f"{write_texts(job, result, rows, SAMPLES)}; nothing was executed")
            return
    if runner is None:
        logger.info("dry run: %d samples; nothing was executed or written", len(samples))
        return
    _test(options, began, subject, samples, result, runner)


def _check(options: HumanEvalOptions) -> None:
    """Refuse flags that contradict each other.

    Raises:
        UserError: the first of them.
    """
    if not (math.isfinite(options.seconds) and options.seconds > 0):
        raise UserError(f"found --seconds {options.seconds}; need a number above 0; change it")
    if options.samples_file and options.generate_only:
        raise UserError("found --generate_only with --samples_file; need one of them; leave one out")
    if not options.samples_file:
        generation_settings(options, options.samples)
        if not options.generate_only:
            require_samples(options.k, options.samples, "--samples")


def _sandboxed(options: HumanEvalOptions) -> Runner:
    """Return what runs programs in the sandbox that the flags name.

    Raises:
        UserError: it does not work on this machine.
    """
    limits = Limits(seconds=options.seconds, cpu_seconds=math.ceil(options.seconds))
    sandbox.require_sandbox(options.sandbox)
    return lambda program: sandbox.run_program(program.source, program.test, limits, options.sandbox)


def _test(
    options: HumanEvalOptions,
    began: float,
    subject: Subject | None,
    samples: Sequence[Sample],
    result: GenerationResult | None,
    runner: Runner,
) -> None:
    store = OutcomeStore(require_writable(options.output), options.overwrite)
    programs = [sample.program for sample in samples]
    conditions = {"sandbox": options.sandbox, "seconds": options.seconds}
    outcomes = judge(programs, runner, conditions, options.workers, store, Progress("testing", unit="programs"))
    report = HumanEvalReport(samples, outcomes, options.k)
    metrics = {**report.metrics(), **({} if result is None else result.metrics())}
    model = None if result is None else result.model
    write_evaluation(options, "humaneval", subject, model, report.rows(), metrics, time.monotonic() - began)
    print(table(metrics))
    print(("" if result is None else f"{result.line()}\n") + f"wrote {options.output}")


@dataclass(frozen=True)
class Sample:
    """One completion of one task.

    Args:
        task: the function to complete.
        completion: the text after the task's prompt.
        details: further facts for its record.
    """

    task: CodeProblem
    completion: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def program(self) -> Program:
        """The whole program, and the test of the task."""
        return Program(self.task.program(self.completion), self.task.check)

    def row(self) -> dict[str, Any]:
        """Its record before it is tested; `--samples_file` reads such records."""
        return {"task_id": self.task.task_id, "completion": self.completion, **self.details}


def write_prompts(tasks: Sequence[CodeProblem]) -> list[Prompt]:
    """The tasks as prompts; a task's random numbers depend on its name, not on its index."""
    return [Prompt("", task.prompt, task.task_id) for task in tasks]


def samples_of(tasks: Sequence[CodeProblem], texts: Sequence[Generated], each: int) -> list[Sample]:
    """Assign generated texts to their tasks.

    Args:
        tasks: what was completed.
        texts: task by task, the samples of each together.
        each: samples per task.
    """
    return [
        Sample(tasks[index // each], text.text, {"sample": index % each, "tokens": text.tokens, "ended": text.ended})
        for index, text in enumerate(texts)
    ]


def _samples_of_file(
    options: HumanEvalOptions, tasks: Sequence[CodeProblem], every: Sequence[CodeProblem]
) -> list[Sample]:
    """Read the samples of the chosen tasks, out of all, from the file that the flags name."""
    assert options.samples_file is not None
    samples, others = read_samples(options.samples_file, tasks, every)
    if others:
        logger.warning("warning: %d samples of tasks that are not among the %d chosen are LEFT OUT", others, len(tasks))
    fewest = min(Counter(sample.task.task_id for sample in samples).values())
    require_samples(options.k, fewest, options.samples_file)
    return samples


def read_samples(
    path: str | Path, tasks: Sequence[CodeProblem], every: Sequence[CodeProblem]
) -> tuple[list[Sample], int]:
    """Read samples: rows with `task_id` and `completion`, as this project and OpenAI's human-eval write them.

    Args:
        path: a file of rows, see `sharelora.data.rows`.
        tasks: those that are scored.
        every: all that there are.

    Returns:
        Their samples in the order of the file, and how many samples of other tasks there are.

    Raises:
        UserError: no such file, a malformed row, or a task without samples.
    """
    by_name = {task.task_id: task for task in every}

    def sample(row: Row) -> Sample:
        name, completion = cell(row, "task_id"), cell(row, "completion")
        if name not in by_name:
            raise BadCell(f"the unknown task_id '{summary(name)}'")
        try:
            completion.encode()
        except UnicodeEncodeError as error:
            raise BadCell("half a character in column completion") from error
        return Sample(by_name[name], completion)

    if not Path(path).is_file():
        raise UserError(f"found no file {path}; need samples to score; check --samples_file")
    wanted = {task.task_id for task in tasks}
    parsed = parse_rows(read_rows(path), str(path), sample)
    samples = [sample for sample in parsed if sample.task.task_id in wanted]
    missing = sorted(wanted - {sample.task.task_id for sample in samples})
    if missing:
        raise UserError(
            f"found no samples of {len(missing)} of {len(tasks)} tasks in {path}, first {missing[0]}; need some of "
            "each; add them, or choose tasks with --limit"
        )
    return samples, len(parsed) - len(samples)


def require_samples(k: Sequence[int], samples: int, source: str) -> None:
    """Refuse a k that is larger than the number of samples.

    Args:
        k: every k of pass@k.
        samples: the fewest of any task.
        source: the flag or file that they come from, for the message.

    Raises:
        UserError: k > samples.
    """
    if max(k) > samples:
        raise UserError(
            f"found --k {max(k)} with {samples} samples of a task ({source}); need at least as many as k; lower --k, "
            "or give more samples"
        )


@dataclass(frozen=True)
class HumanEvalReport:
    """Samples and their outcomes.

    Args:
        samples: of all tasks.
        outcomes: one for each.
        k: every k of pass@k.
    """

    samples: Sequence[Sample]
    outcomes: Sequence[Outcome]
    k: Sequence[int]

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Task -> its samples, and how many of them passed."""
        by_task: dict[str, list[bool]] = {}
        for sample, outcome in zip(self.samples, self.outcomes, strict=True):
            by_task.setdefault(sample.task.task_id, []).append(outcome.passed)
        return {name: (len(passed), sum(passed)) for name, passed in by_task.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One record per sample: the completion and its outcome."""
        return [{**sample.row(), **vars(outcome)} for sample, outcome in zip(self.samples, self.outcomes, strict=True)]

    def metrics(self) -> dict[str, Any]:
        """Every number of the report: pass@k with its standard error over tasks, and every task by itself."""
        counts, sizes = self.counts, sorted(set(self.k))
        means = {size: over_tasks(list(counts.values()), size) for size in sizes}
        return {
            **{f"pass@{size}": mean.mean for size, mean in means.items()},
            **{f"pass@{size}_stderr": mean.standard_error for size, mean in means.items()},
            "task_count": len(counts),
            "samples": len(self.samples),
            "passed": sum(outcome.passed for outcome in self.outcomes),
            "statuses": dict(sorted(Counter(outcome.status for outcome in self.outcomes).items())),
            "tasks": {
                name: {
                    "samples": samples,
                    "passed": passed,
                    **{f"pass@{size}": pass_at_k(samples, passed, size) for size in sizes},
                }
                for name, (samples, passed) in counts.items()
            },
        }


def table(metrics: Mapping[str, Any]) -> str:
    """The result in a few lines."""
    lines = [f"HumanEval, {metrics['task_count']:,} tasks, {metrics['samples']:,} samples"]
    for name in (name for name in metrics if name.startswith("pass@") and not name.endswith("_stderr")):
        error = metrics[f"{name}_stderr"]
        lines.append(f"  {name:<20}{metrics[name]:8.4f}" + ("" if error is None else f" ± {error:.4f}"))
    statuses = ", ".join(f"{count:,} {status}" for status, count in metrics["statuses"].items())
    return "\n".join([*lines, f"  samples: {statuses}"])
