"""HumanEval: samples that were generated or read from a file, and how what comes of them is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharelora.data.humaneval import CodeProblem
from sharelora.data.rows import BadCell, Row, cell, parse_rows, read_rows, summary
from sharelora.evaluation.generation import Generated, Prompt
from sharelora.evaluation.programs import Program
from sharelora.metrics.pass_at_k import over_tasks, pass_at_k
from sharelora.sandbox import Outcome
from sharelora.support.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One completion of one task.

    Args:
        task: what is completed.
        completion: what follows the task's prompt.
        details: more that is known of it, for its record.
    """

    task: CodeProblem
    completion: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def program(self) -> Program:
        """The program that it makes, and the test of the task."""
        return Program(self.task.program(self.completion), self.task.check)

    def row(self) -> dict[str, Any]:
        """Its record before it is tested; `--samples_file` reads such records."""
        return {"task_id": self.task.task_id, "completion": self.completion, **self.details}


def write_prompts(tasks: Sequence[CodeProblem]) -> list[Prompt]:
    """The tasks as prompts; a task's draws depend on its name, not on its place."""
    return [Prompt("", task.prompt, task.task_id) for task in tasks]


def samples_of(tasks: Sequence[CodeProblem], texts: Sequence[Generated], each: int) -> list[Sample]:
    """Put generated texts behind their tasks.

    Args:
        tasks: what was completed.
        texts: task by task, the samples of each together.
        each: samples per task.
    """
    numbered = ((tasks[place // each], place % each, text) for place, text in enumerate(texts))
    return [
        Sample(task, text.text, {"sample": number, "tokens": text.tokens, "ended": text.ended})
        for task, number, text in numbered
    ]


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
            raise BadCell(f"the task_id '{summary(name)}', which no task has")
        try:
            completion.encode()
        except UnicodeEncodeError as error:
            raise BadCell("half a character in column completion") from error
        return Sample(by_name[name], completion)

    if not Path(path).is_file():
        raise UserError(f"found no file {path}; need samples to score; check --samples_file")
    parsed, wanted = parse_rows(read_rows(path), str(path), sample), {task.task_id for task in tasks}
    found = [one for one in parsed if one.task.task_id in wanted]
    lacking = sorted(wanted - {one.task.task_id for one in found})
    if lacking:
        raise UserError(
            f"found no samples of {len(lacking)} of {len(tasks)} tasks in {path}, first {lacking[0]}; need some of "
            "each; add them, or choose tasks with --limit"
        )
    return found, len(parsed) - len(found)


def require_samples(k: Sequence[int], samples: int, where: str) -> None:
    """Refuse a k that is larger than the number of samples.

    Args:
        k: every k that is asked for.
        samples: the fewest of any task.
        where: they come from, for the message.

    Raises:
        UserError: k > samples.
    """
    if max(k) > samples:
        raise UserError(
            f"found --k {max(k)} with {samples} samples of a task ({where}); need at least as many as k; lower --k, or "
            "give more samples"
        )


@dataclass(frozen=True)
class Report:
    """Samples and what came of them.

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
        found: dict[str, list[bool]] = {}
        for sample, outcome in zip(self.samples, self.outcomes, strict=True):
            found.setdefault(sample.task.task_id, []).append(outcome.passed)
        return {name: (len(passed), sum(passed)) for name, passed in found.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One record per sample: the completion and what came of it."""
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


def table(found: Mapping[str, Any]) -> str:
    """The result in a few lines."""
    lines = [f"HumanEval, {found['task_count']:,} tasks, {found['samples']:,} samples"]
    for name in (name for name in found if name.startswith("pass@") and not name.endswith("_stderr")):
        error = found[f"{name}_stderr"]
        lines.append(f"  {name:<20}{found[name]:8.4f}" + ("" if error is None else f" ± {error:.4f}"))
    shown = ", ".join(f"{count:,} {status}" for status, count in found["statuses"].items())
    return "\n".join([*lines, f"  samples: {shown}"])
