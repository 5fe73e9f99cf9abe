"""HumanEval: functions to be completed, with a program that tests them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sharelora.data.items import load_items
from sharelora.data.readers import BadCell, Row, cell, summary
from sharelora.support.errors import UserError

# Where a completion ends: the next thing that begins in the first column cannot belong to the function. The first five
# are those of Chen et al. 2021; decorators and the end of a Markdown block do not belong to it either.
STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint", "\n@", "\n```")


@dataclass(frozen=True)
class Task:
    """One function to be completed.

    Args:
        task_id: e.g. `HumanEval/0`.
        prompt: imports, signature and docstring, as published.
        entry_point: the function's name.
        solution: the published body.
        test: defines `check`, which takes the function.
    """

    task_id: str
    prompt: str
    entry_point: str
    solution: str
    test: str

    def program(self, completion: str) -> str:
        """The program that a completion makes: what the prompt begins, to its end."""
        return f"{self.prompt}{completion}\n"

    @property
    def check(self) -> str:
        """What tests such a program: it ends without an error if the completion is right."""
        return f"{self.test}\n\ncheck({self.entry_point})\n"


def load_humaneval(root: str | Path | None = None) -> list[Task]:
    """Load the tasks.

    Args:
        root: folder of local data with `humaneval/HumanEval.jsonl` (or .jsonl.gz), see
            `sharelora.data.items.load_items`.

    Raises:
        UserError: no data, a malformed row (file and row are named), or a task that is there twice.
    """
    tasks = load_items("humaneval", "test", _task, root)
    seen: set[str] = set()
    for number, task in enumerate(tasks, 1):
        if task.task_id in seen:
            raise UserError(f"found task {task.task_id} again in row {number}; need every task once; repair the data")
        seen.add(task.task_id)
    return tasks


def _task(row: Row) -> Task:
    names = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    task = Task(*(cell(row, name) for name in names))
    if not task.entry_point.isidentifier() or f"def {task.entry_point}(" not in task.prompt:
        raise BadCell(f"no function '{summary(task.entry_point)}' in column prompt")
    if "def check(" not in task.test:
        raise BadCell("no function 'check' in column test")
    return task
