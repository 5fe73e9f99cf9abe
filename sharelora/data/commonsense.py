"""The eight commonsense tasks of LLM-Adapters (Hu et al. 2023), in the form in which that project publishes them.

An instruction lists the options and ends with the words that may answer it, `Answer format: answer1/answer2`; the text
to learn is `the correct answer is answer2`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sharelora.data.find import DATA_FOLDER, data_folder, find_file
from sharelora.data.rows import Row, cell, optional, parse_rows, read_rows
from sharelora.support.errors import UserError
from sharelora.support.text import nearest

FOLDER = "commonsense"
# The words before the answer in every text to learn.
LEAD = "the correct answer is "
_ANSWERS = tuple(f"answer{number}" for number in range(1, 6))
# Task, by the name of its folder -> every word that may answer it.
TASKS: dict[str, tuple[str, ...]] = {
    "boolq": ("true", "false"),
    "piqa": ("solution1", "solution2"),
    "social_i_qa": _ANSWERS,
    "hellaswag": ("ending1", "ending2", "ending3", "ending4"),
    "winogrande": ("option1", "option2"),
    "ARC-Easy": _ANSWERS,
    "ARC-Challenge": _ANSWERS,
    "openbookqa": _ANSWERS,
}
_FORMAT = "Answer format: "


@dataclass(frozen=True)
class CommonsenseItem:
    """One question.

    Args:
        task: which task it is from.
        instruction: the question with its options and the words that may answer it.
        input: more context; empty in the published files.
        answers: those words, in order.
        answer: the right one.
    """

    task: str
    instruction: str
    input: str
    answers: tuple[str, ...]
    answer: str


def find_answer(task: str, text: str) -> str | None:
    """Find the answer in a generated text: the first of the task's words in it, in any case of letters, or None.

    The rule of LLM-Adapters' commonsense evaluation, except for the case.
    """
    match = re.search("|".join(TASKS[task]), text.lower())
    return None if match is None else match[0]


def known_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of tasks if there are such tasks.

    Raises:
        UserError: one is unknown; the nearest one is named.
    """
    for name in names:
        if name not in TASKS:
            tasks = {task.lower(): task for task in TASKS}
            near = nearest(name.lower(), tasks)
            advice = f"did you mean {tasks[near[0]]}?" if near else "change --tasks"
            raise UserError(f"found commonsense task {name!r}; need some of {', '.join(TASKS)}; {advice}")
    return tuple(dict.fromkeys(names))


def load_commonsense(tasks: Sequence[str] | None = None, root: str | Path | None = None) -> list[CommonsenseItem]:
    """Load the test questions of some tasks.

    Args:
        tasks: names of `TASKS`; None for all eight.
        root: folder of local data with `commonsense/<task>/test.json`, as in LLM-Adapters' folder `dataset`; None
            takes the environment variable SHARELORA_DATA.

    Raises:
        UserError: no folder, an unknown task, tasks without a file (all are named), or a malformed question (file and
            row are named).
    """
    names = known_tasks(tuple(TASKS) if tasks is None else tasks)
    folder = data_folder(root)
    if folder is None:
        raise UserError(
            f"found no folder of commonsense tasks; need {FOLDER}/<task>/test.json as LLM-Adapters publishes them; "
            f"set {DATA_FOLDER} or --data_root to the folder above, or add --tiny"
        )
    files = {task: find_file(folder, [f"{FOLDER}/{task}/test"]) for task in TASKS}
    missing = [name for name in names if files[name] is None]
    if missing:
        present = [task for task, file in files.items() if file is not None]
        advice = f", or ask the others with --tasks {','.join(present)}" if present else ""
        raise UserError(
            f"found no {', '.join(missing)} in {folder / FOLDER}; need <task>/test.json for each; "
            f"put them there{advice}"
        )
    return [item for name in names if (file := files[name]) is not None for item in _read(name, file)]


def _read(task: str, file: Path) -> list[CommonsenseItem]:
    needed = f"instruction, which ends with '{_FORMAT}' and words of {'/'.join(TASKS[task])}, input, and answer"
    return parse_rows(read_rows(file), str(file), partial(_item, task), needed)


def _item(task: str, row: Row) -> CommonsenseItem:
    instruction, answer = cell(row, "instruction"), cell(row, "answer").strip()
    before, mark, words = instruction.rpartition(_FORMAT)
    answers = tuple(word.strip() for word in words.split("/"))
    if not mark or not before.strip() or len(answers) < 2 or not set(answers) <= set(TASKS[task]):
        raise ValueError(f"the instruction ends with {instruction[-40:]!r}")
    if answer not in answers:
        raise ValueError(f"answer is {answer!r}, not one of {'/'.join(answers)}")
    output = optional(row, "output")
    if output and find_answer(task, output) != answer:
        raise ValueError(f"output is {output!r}, but answer is {answer!r}")
    return CommonsenseItem(task, instruction, optional(row, "input"), answers, answer)
