"""Samples of HumanEval: completions that a model has just written, or that a file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sharelora.data.humaneval import CodeProblem
from sharelora.data.rows import BadCell, Row, cell, parse_rows, read_rows, summary
from sharelora.evaluation.generation.settings import Generated
from sharelora.evaluation.programs import Program
from sharelora.support.errors import UserError


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
        """The published reading: the prompt and the completion as it is, and the test of the task."""
        return Program(self.task.program(self.completion), self.task.check)

    @cached_property
    def _read(self) -> tuple[str, str]:
        return self.task.read(self.completion)

    @property
    def read_by(self) -> str:
        """The rule that reads the completion in any form, see `sharelora.data.code_answers.read_code`."""
        return self._read[0]

    @property
    def program_any(self) -> Program:
        """The program in the completion in any form, and the test of the task."""
        return Program(self._read[1], self.task.check)

    def row(self) -> dict[str, Any]:
        """Its record before it is tested; `--samples_file` reads such records."""
        return {"task_id": self.task.task_id, "completion": self.completion, **self.details}


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
