"""MMLU-Pro: its questions, of up to ten options.

The published release gives every answer twice, as a letter and as an index. Where the two disagree the letter is right
(question 3983 is one of these), and a warning says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from sharelora.data.find import KnownDataset, data_folder, find_split, local_file
from sharelora.data.questions import LETTERS, Question, letter, options, texts
from sharelora.data.rows import Row, cell, missing, parse_rows
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

MMLU_PRO = KnownDataset(
    name="MMLU-Pro",
    hub={"path": "TIGER-Lab/MMLU-Pro"},
    files={"val": ("mmlu_pro/val", "mmlu_pro/validation"), "test": ("mmlu_pro/test",)},
    hub_splits={"val": ("validation",), "test": ("test",)},
    one_split=True,
)


@dataclass(frozen=True)
class ProQuestions:
    """The questions of one split.

    Args:
        questions: in the order of the file; the subject of each is its category.
        disagreeing: ids of those whose `answer_index` is not the index of their `answer`.
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
    if split not in MMLU_PRO.files:
        raise UserError(f"found MMLU-Pro split {split}; need one of {', '.join(MMLU_PRO.files)}; change --split")
    source = find_split(MMLU_PRO, split, root)
    needed = "question_id, question, options, answer (a letter), category and, if there is one, answer_index"
    parsed = parse_rows(source.rows(), source.origin, _question, needed)
    disagreeing = tuple(question.id for question, agrees in parsed if not agrees)
    if disagreeing:
        logger.warning(
            "warning: %d of %d questions of %s have an answer_index other than their answer; the letter counts: %s",
            len(disagreeing),
            len(parsed),
            source.origin,
            ", ".join(disagreeing),
        )
    return ProQuestions([question for question, _ in parsed], disagreeing)


def has_examples(root: str | Path | None = None) -> bool:
    """Whether the validation split, which solved examples are taken from, is there; the hub has it."""
    folder = data_folder(root)
    return folder is None or local_file(MMLU_PRO, "val", folder) is not None


def _question(row: Row) -> tuple[Question, bool]:
    """A question, and whether the two forms of its answer agree."""
    choices = options(row["options"])
    category, question, answer = texts(row["category"], row["question"], row["answer"])
    answer = letter(answer, len(choices))
    index = LETTERS.index(answer) if missing(row.get("answer_index")) else row["answer_index"]
    if not isinstance(index, int) or isinstance(index, bool):
        raise ValueError(f"answer_index is {index!r}, not a number")
    return Question(category, question, choices, answer, cell(row, "question_id")), LETTERS[index : index + 1] == answer
