"""LLaVA-Bench: answers in its format, ratings of them by a judge, and the score."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharelora.data.vision.bench import PREFIX, BenchQuestion, Rating
from sharelora.evaluation.generation import Generated
from sharelora.evaluation.store import Store
from sharelora.evaluation.vision.judge import Judge, points
from sharelora.metrics.llava_bench import Relative, relative
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError

ANSWERS, REVIEWS = "answers.jsonl", "reviews.jsonl"

Row = dict[str, Any]


def answer_rows(questions: Sequence[BenchQuestion], texts: Sequence[Generated], model: str) -> list[Row]:
    """Write answers as LLaVA's evaluation does; an answer's id depends on the question and the answer alone."""
    return [
        {
            "question_id": question.number,
            "prompt": question.text,
            "text": text.text,
            "answer_id": _name(question.number, text.text),
            "model_id": model,
            "metadata": {"category": question.category, "tokens": text.tokens, "ended": text.ended},
        }
        for question, text in zip(questions, texts, strict=True)
    ]


def _name(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


class ReviewStore(Store[int, str]):
    """A judge's words by the question's number, on disk as they come: they cost money.

    Args:
        folder: where the file lies.
        settings: everything that decides what the judge says.
        overwrite: forget what is there.

    Raises:
        UserError: the file belongs to other settings, is damaged, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        super().__init__(folder / "judged.jsonl", settings, "--output", overwrite)

    def _to_row(self, key: int, value: str) -> Row:
        return {"question_id": key, "content": value}

    def _from_row(self, row: Any) -> tuple[int, str]:
        if not isinstance(row["content"], str):
            raise ValueError("no words")
        return int(row["question_id"]), row["content"]


def review(judge: Judge, messages: Mapping[int, str], store: ReviewStore) -> None:
    """Ask a judge about every question that it has not rated yet.

    Raises:
        UserError: see `Judge.ask`; what was rated is kept.
    """
    missing = [number for number in messages if number not in store.found]
    progress = Progress("judge", unit="ratings")
    for done, number in enumerate(missing, 1):
        store.add({number: judge.ask(messages[number])})
        progress(done, len(missing), done)


def review_rows(questions: Sequence[BenchQuestion], answers: Mapping[int, str], words: Mapping[int, str]) -> list[Row]:
    """Write a judge's words as LLaVA's evaluation does; points that cannot be read are -1, as there."""
    return [
        {
            "id": place,
            "question_id": question.number,
            "answer1_id": _name(question.number, "reference"),
            "answer2_id": _name(question.number, answers[question.number]),
            "category": PREFIX + question.category,
            "content": words[question.number],
            "tuple": list(points(words[question.number])),
        }
        for place, question in enumerate(questions)
    ]


class Scores:
    """What ratings come to.

    Args:
        ratings: one for each question, or for some of them.
        questions: how many there are.

    Raises:
        UserError: no rating has points.
    """

    def __init__(self, ratings: Sequence[Rating], questions: int) -> None:
        self.missing = questions - len(ratings)
        by_category: dict[str, list[tuple[float | None, float | None]]] = {}
        for rating in ratings:
            by_category.setdefault(rating.category, []).append((rating.reference, rating.model))
        every = [pair for pairs in by_category.values() for pair in pairs]
        if all(None in pair for pair in every):
            raise UserError(
                f"found points in none of {len(every)} ratings; need two numbers in the first line of the judge's "
                "words; use another judge, or correct the file"
            )
        self.total = relative(every)
        rated = {name: pairs for name, pairs in by_category.items() if not all(None in pair for pair in pairs)}
        self.categories: dict[str, Relative] = {name: relative(pairs) for name, pairs in sorted(rated.items())}

    def metrics(self) -> dict[str, Any]:
        """Every number: `score` is the model's points in percent of the reference's, over all questions."""
        return {
            "score": self.total.percent,
            "reference_points": self.total.reference,
            "model_points": self.total.model,
            "rated": self.total.count,
            "without_points": self.total.unreadable,
            "not_rated": self.missing,
            "categories": {
                name: {"score": part.percent, "rated": part.count, "without_points": part.unreadable}
                for name, part in self.categories.items()
            },
        }

    def table(self) -> str:
        """The scores in a few lines; what does not count is said."""
        rows = [*self.categories.items(), ("all", self.total)]
        lines = [
            f"  {name:<10}{part.percent:7.1f} %  {part.model:5.2f} of {part.reference:5.2f} points, {part.count} rated"
            for name, part in rows
        ]
        if self.total.unreadable or self.missing:
            lines.append(
                f"  left out: {self.total.unreadable} ratings without points, {self.missing} questions unrated"
            )
        return "\n".join(["LLaVA-Bench: the model's points in percent of the reference's", *lines])
