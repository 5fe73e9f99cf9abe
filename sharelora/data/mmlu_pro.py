"""MMLU-Pro: its questions, of up to ten options, from local files or the hub.

The published release names every answer twice, by letter and by index. Where the two disagree the letter is right
(question 3983 is such a one), and it is said.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharelora.data.hub import load_from_hub
from sharelora.data.questions import LETTERS, Question, letter, options, parse, texts
from sharelora.data.readers import Row, find_file, read_rows
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

HUB = "TIGER-Lab/MMLU-Pro"
# Our name of a split -> what it may be called in file names, and on the hub (the last one).
SPLITS = {"val": ("val", "validation"), "test": ("test",)}
FOLDER = "mmlu_pro"


@dataclass(frozen=True)
class ProQuestions:
    """The questions of one split.

    Args:
        questions: in the order of the file; the subject of each is its category.
        disagreeing: ids of those whose `answer_index` is not the place of their `answer`.
    """

    questions: list[Question]
    disagreeing: tuple[str, ...]


def load_mmlu_pro(split: str, root: str | Path | None = None) -> ProQuestions:
    """Load one split of MMLU-Pro.

    Args:
        split: `val` or `test`.
        root: folder of local data with `mmlu_pro/{val,test}.jsonl`; None takes the environment variable
            SHARELORA_DATA. Where there is neither, the hub's `TIGER-Lab/MMLU-Pro` is used.

    Raises:
        UserError: an unknown split, no data, an empty file, or a malformed question (file and row are named).
    """
    if split not in SPLITS:
        raise UserError(f"found MMLU-Pro split {split}; need one of {', '.join(SPLITS)}; change --split")
    rows, origin = _rows(split, root)
    needed = "question_id, question, options, answer (a letter), category and, if there is one, answer_index"
    found = parse(rows, origin, _question, needed)
    wrong = tuple(question.id for question, agrees in found if not agrees)
    if wrong:
        logger.warning(
            "warning: %d of %d questions of %s have an answer_index other than their answer; the letter counts: %s",
            len(wrong),
            len(found),
            origin,
            ", ".join(wrong),
        )
    return ProQuestions([question for question, _ in found], wrong)


def has_examples(root: str | Path | None = None) -> bool:
    """Whether the validation split, which solved examples are taken from, is there; the hub has it."""
    folder = _folder(root)
    return folder is None or _file(folder, "val") is not None


def _folder(root: str | Path | None) -> Path | None:
    found = root or os.environ.get("SHARELORA_DATA")
    return Path(found) if found else None


def _file(folder: Path, split: str) -> Path | None:
    return find_file(folder, [f"{FOLDER}/{name}" for name in SPLITS[split]])


def _rows(split: str, root: str | Path | None) -> tuple[Sequence[Row], str]:
    """The rows of a split, and where they are from."""
    folder = _folder(root)
    if folder is None:
        ways = f"set SHARELORA_DATA=/a/folder/with/{FOLDER} or add --tiny"
        return load_from_hub({"path": HUB, "split": SPLITS[split][-1]}, "MMLU-Pro", ways).to_list(), f"{HUB} {split}"
    file = _file(folder, split)
    if file is None:
        raise UserError(
            f"no MMLU-Pro {split} split in {folder}; need {FOLDER}/{split}.jsonl there (or .jsonl.gz); "
            "check SHARELORA_DATA or --data_root, or unset both to load it from the hub"
        )
    return read_rows(file), str(file)


def _question(row: Row) -> tuple[Question, bool]:
    """A question, and whether the two forms of its answer agree."""
    choices = options(row["options"])
    category, question, answer = texts(row["category"], row["question"], row["answer"])
    answer = letter(answer, len(choices))
    index = row.get("answer_index", LETTERS.index(answer))
    if not isinstance(index, int) or isinstance(index, bool):
        raise ValueError(f"answer_index is {index!r}, not a number")
    return Question(category, question, choices, answer, str(row["question_id"])), LETTERS[index : index + 1] == answer
