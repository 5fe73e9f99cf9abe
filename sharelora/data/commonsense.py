"""The eight commonsense tasks of LLM-Adapters (Hu et al. 2023), in the form in which that project publishes them.

An instruction lists the options and ends with the words that may answer it, `Answer format: answer1/answer2`; what is
to be learnt is `the correct answer is answer2`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sharelora.data.questions import parse
from sharelora.data.readers import Row, cell, find_file, optional, read_rows
from sharelora.support.errors import UserError

FOLDER = "commonsense"
# What stands before the answer's word in everything that is learnt.
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
        input: what else is given; empty in the published files.
        answers: those words, in order.
        answer: the right one.
    """

    task: str
    instruction: str
    input: str
    answers: tuple[str, ...]
    answer: str


def find_answer(task: str, text: str) -> str | None:
    """Find the answer in a generated text: the first of the task's words in it, whatever its case; None if none is.

    The rule of LLM-Adapters' commonsense evaluation, but for the case.
    """
    found = re.search("|".join(TASKS[task]), text.lower())
    return None if found is None else found[0]


def known_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of tasks if there are such tasks.

    Raises:
        UserError: one is unknown; the nearest one is named.
    """
    for name in names:
        if name not in TASKS:
            near = {task.lower(): task for task in TASKS}
            close = difflib.get_close_matches(name.lower(), near, n=1, cutoff=0.5)
            advice = f"did you mean {near[close[0]]}?" if close else "change --tasks"
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
    named = known_tasks(tuple(TASKS) if tasks is None else tasks)
    folder = root or os.environ.get("SHARELORA_DATA")
    if not folder:
        raise UserError(
            f"found no folder of commonsense tasks; need {FOLDER}/<task>/test.json as LLM-Adapters publishes them; "
            "set SHARELORA_DATA or --data_root to the folder above, or add --tiny"
        )
    files = {task: find_file(Path(folder), [f"{FOLDER}/{task}/test"]) for task in named}
    missing = [task for task, file in files.items() if file is None]
    if missing:
        there = [task for task in TASKS if find_file(Path(folder), [f"{FOLDER}/{task}/test"])]
        advice = f", or ask the others with --tasks {','.join(there)}" if there else ""
        raise UserError(
            f"found no {', '.join(missing)} in {Path(folder) / FOLDER}; need <task>/test.json for each; "
            f"put them there{advice}"
        )
    return [item for task, file in files.items() if file is not None for item in _read(task, file)]


def _read(task: str, file: Path) -> list[CommonsenseItem]:
    needed = f"instruction, which ends with '{_FORMAT}' and words of {'/'.join(TASKS[task])}, input, and answer"
    return parse(read_rows(file), str(file), partial(_item, task), needed)


def _item(task: str, row: Row) -> CommonsenseItem:
    instruction, answer = cell(row, "instruction"), cell(row, "answer").strip()
    before, found, words = instruction.rpartition(_FORMAT)
    answers = tuple(word.strip() for word in words.split("/"))
    if not found or not before.strip() or len(answers) < 2 or not set(answers) <= set(TASKS[task]):
        raise ValueError(f"the instruction ends with {instruction[-40:]!r}")
    if answer not in answers:
        raise ValueError(f"answer is {answer!r}, not one of {'/'.join(answers)}")
    output = optional(row, "output")
    if output and find_answer(task, output) != answer:
        raise ValueError(f"output is {output!r}, but answer is {answer!r}")
    return CommonsenseItem(task, instruction, optional(row, "input"), answers, answer)
