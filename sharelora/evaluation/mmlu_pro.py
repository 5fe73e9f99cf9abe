"""MMLU-Pro as an exam: which questions, with which examples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharelora.data.mmlu_pro import has_examples, load_mmlu_pro
from sharelora.data.questions import of_subjects
from sharelora.evaluation.exam import Exam, choose, prepare
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

SHOTS = 5


def load_exam(
    tokenizer: Any,
    split: str,
    shots: int | None,
    limit: int | None,
    prompt: str = "qlora",
    count: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    leave_out: bool = False,
    subjects: Sequence[str] | None = None,
) -> Exam:
    """Read a split of MMLU-Pro and make an exam of it: MMLU's prompt with up to ten letters, the category as subject.

    There is no chain of thought: the answer is the letter that the model finds most likely.

    Args:
        tokenizer: the model's.
        split: `val` or `test`.
        shots: solved examples before every question, from the validation split; None means 5 where that split is
            there and else none, which is said.
        limit, prompt, count, seed, leave_out, subjects: as for `sharelora.evaluation.mmlu.load_exam`.
        root: folder of local data, see `load_mmlu_pro`.

    Raises:
        UserError: no data, an unknown category, examples that are the questions themselves or are not there, or a
            question too long even without examples.
    """
    if shots is None:
        shots = _possible_shots(split, root)
    if split == "val" and shots:
        raise UserError(
            f"found split val with {shots} examples; need 0, as its questions are the examples themselves; "
            "use --shots 0 or another --split"
        )
    found = load_mmlu_pro(split, root)
    questions = choose(of_subjects(found.questions, subjects), count, seed)
    solved = load_mmlu_pro("val", root).questions if shots else []
    exam = prepare(tokenizer, questions, solved, shots, limit, prompt, leave_out)
    asked = {question.id for question in exam.questions}
    return replace(exam, remarks={"wrong_answer_index": [name for name in found.disagreeing if name in asked]})


def _possible_shots(split: str, root: str | Path | None) -> int:
    if split == "val":
        return 0
    if has_examples(root):
        return SHOTS
    logger.warning(
        "warning: the validation split of MMLU-Pro, which examples are taken from, is not there: questions are asked "
        "WITHOUT EXAMPLES (0-shot)"
    )
    return 0
