"""MMLU as an exam: which questions, with which examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharelora.data.mmlu import category, load_mmlu
from sharelora.data.questions import of_subjects
from sharelora.evaluation.exam import Exam, choose, prepare
from sharelora.support.errors import UserError


def load_exam(
    tokenizer: Any,
    split: str,
    shots: int,
    limit: int | None,
    prompt: str = "qlora",
    count: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    leave_out: bool = False,
    subjects: Sequence[str] | None = None,
) -> Exam:
    """Read a split of MMLU and make an exam of it.

    Args:
        tokenizer: the model's.
        split: `dev`, `val` or `test`.
        shots: solved examples before every question, from the dev split.
        limit: most tokens of a prompt; None for no limit.
        prompt: how questions are written down, a name of `sharelora.data.questions.PROMPTS`.
        count: how many questions to choose, see `choose`; None for all.
        seed: of the choice.
        root: folder of local data, see `load_mmlu`.
        leave_out: see `prepare`.
        subjects: ask only about these; None for all.

    Raises:
        UserError: no data, no question asked for, an unknown subject, examples that are the questions themselves, or a
            question too long even without examples.
    """
    if split == "dev" and shots:
        raise UserError(
            f"found split dev with {shots} examples; need 0, as its questions are the examples themselves; "
            "use --shots 0 or another --split"
        )
    questions = choose(of_subjects(load_mmlu(split, root), subjects), count, seed)
    solved = load_mmlu("dev", root) if shots else []
    exam = prepare(tokenizer, questions, solved, shots, limit, prompt, leave_out)
    return replace(exam, categories={question.subject: category(question.subject) for question in exam.questions})
