"""HumanEval: functions that a model completes, or a file has completed; a sandbox tests them."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharelora import sandbox
from sharelora.data.code_answers import RULES
from sharelora.data.humaneval import CodeProblem, load_humaneval
from sharelora.evaluation.code_samples import Sample, read_samples, require_samples, samples_of
from sharelora.evaluation.commands import HumanEvalOptions
from sharelora.evaluation.generation.job import (
    GenerationResult,
    generate_texts,
    generation_settings,
    prepare_generation,
    write_texts,
)
from sharelora.evaluation.generation.settings import Prompt
from sharelora.evaluation.programs import OutcomeStore, Runner, judge
from sharelora.evaluation.subject import Subject, data_root, locate_subject, write_evaluation
from sharelora.metrics.pass_at_k import over_tasks, pass_at_k
from sharelora.reporting.progress import Progress
from sharelora.sandbox import UNJUDGED, Limits, Outcome
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
    # Most samples are read alike in both ways, and equal programs are run once.
    programs = [*(sample.program for sample in samples), *(sample.program_any for sample in samples)]
    conditions = {"sandbox": options.sandbox, "seconds": options.seconds}
    outcomes = judge(programs, runner, conditions, options.workers, store, Progress("testing", unit="programs"))
    report = HumanEvalReport(samples, outcomes[: len(samples)], outcomes[len(samples) :], options.k)
    metrics = {**report.metrics(), **({} if result is None else result.metrics())}
    model = None if result is None else result.model
    begin, seconds = None if result is None else result.begin, time.monotonic() - began
    write_evaluation(options, "humaneval", subject, model, report.rows(), metrics, seconds, begin)
    print(table(metrics))
    print(("" if result is None else f"{result.line()}\n{result.begin.line()}\n") + f"wrote {options.output}")


def write_prompts(tasks: Sequence[CodeProblem]) -> list[Prompt]:
    """The tasks as prompts; a task's random numbers depend on its name, not on its index."""
    return [Prompt("", task.prompt, task.task_id) for task in tasks]


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


@dataclass(frozen=True)
class HumanEvalReport:
    """Samples and their outcomes.

    Args:
        samples: of all tasks.
        outcomes: of each, its completion as it is.
        outcomes_any: of each, its completion read in any form.
        k: every k of pass@k.
    """

    samples: Sequence[Sample]
    outcomes: Sequence[Outcome]
    outcomes_any: Sequence[Outcome]
    k: Sequence[int]

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Task -> its samples, and how many of them passed."""
        return self._counts(self.outcomes)

    def _counts(self, outcomes: Sequence[Outcome], right: Sequence[str] = ("passed",)) -> dict[str, tuple[int, int]]:
        """Task -> its samples, and how many of them have one of the statuses `right`."""
        by_task: dict[str, list[bool]] = {}
        for sample, outcome in zip(self.samples, outcomes, strict=True):
            by_task.setdefault(sample.task.task_id, []).append(outcome.status in right)
        return {name: (len(passed), sum(passed)) for name, passed in by_task.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One record per sample: the completion, its outcome, and that of its reading in any form."""
        parts = zip(self.samples, self.outcomes, self.outcomes_any, strict=True)
        return [
            {
                **sample.row(),
                **vars(outcome),
                "read_by": sample.read_by,
                "passed_any": anyhow.passed,
                "status_any": anyhow.status,
            }
            for sample, outcome, anyhow in parts
        ]

    def metrics(self) -> dict[str, Any]:
        """Every number of the report: pass@k with its standard error over tasks, and every task by itself.

        `pass@k` is the published score: a completion counts as it is. `pass@k_any` also reads what chat models write
        (blocks, sentences, the whole function again), and `read_by` counts the samples by the rule that has read them.
        A sample that the sandbox could not judge has not passed; where there are any, `_at_most` are the scores that
        these would have reached.
        """
        counts, sizes = self.counts, sorted(set(self.k))
        rules = Counter(sample.read_by for sample in self.samples)
        readings = {"": self.outcomes, "_any": self.outcomes_any}
        scores: dict[str, float | None] = {}
        for ending, outcomes in readings.items():
            scores |= _scores(self._counts(outcomes), sizes, ending)
            if any(outcome.status == UNJUDGED for outcome in outcomes):
                scores |= _scores(self._counts(outcomes, ("passed", UNJUDGED)), sizes, f"{ending}_at_most")
        return {
            **scores,
            **{
                f"not_judged{ending}": sum(outcome.status == UNJUDGED for outcome in outcomes)
                for ending, outcomes in readings.items()
            },
            "passed_any": sum(outcome.passed for outcome in self.outcomes_any),
            "read_by": {rule: rules[rule] for rule in RULES},
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


def _scores(counts: Mapping[str, tuple[int, int]], sizes: Sequence[int], ending: str) -> dict[str, float | None]:
    means = {size: over_tasks(list(counts.values()), size) for size in sizes}
    return {
        **{f"pass@{size}{ending}": mean.mean for size, mean in means.items()},
        **{f"pass@{size}{ending}_stderr": mean.standard_error for size, mean in means.items()},
    }


def table(metrics: Mapping[str, Any]) -> str:
    """The result in a few lines."""
    lines = [f"HumanEval, {metrics['task_count']:,} tasks, {metrics['samples']:,} samples"]
    scores = [name for name in metrics if name.startswith("pass@") and not name.endswith("_stderr")]
    titles = {name: name.replace("_any", " in any form").replace("_at_most", " at most") for name in scores}
    width = max(20, *map(len, titles.values()))
    for name, title in titles.items():
        error = metrics[f"{name}_stderr"]
        lines.append(f"  {title:<{width}}{metrics[name]:8.4f}" + ("" if error is None else f" ± {error:.4f}"))
    read = ", ".join(f"{count:,} {rule}" for rule, count in metrics["read_by"].items())
    lines.append(f"  read in any form: {read}")
    if metrics["not_judged"] or metrics["not_judged_any"]:
        unjudged = f"{metrics['not_judged']:,}; in any form {metrics['not_judged_any']:,}"
        lines.append(f"  NOT JUDGED: {unjudged}; 'at most' is the score if all of them were right")
    statuses = ", ".join(f"{count:,} {status}" for status, count in metrics["statuses"].items())
    return "\n".join([*lines, f"  samples: {statuses}"])
