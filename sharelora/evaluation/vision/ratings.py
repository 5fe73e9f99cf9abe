"""A judge's ratings of a model's answers to LLaVA-Bench: asked for, kept, written in LLaVA's form, and scored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.vision.bench import (
    CONTEXT,
    PREFIX,
    REFERENCES,
    BenchQuestion,
    Rating,
    read_answers,
    read_captions,
    read_ratings,
)
from sharelora.evaluation.store import Store
from sharelora.evaluation.vision.judge import Judge, points
from sharelora.metrics.llava_bench import Relative, relative
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable, write_json_lines

REVIEWS = "reviews.jsonl"


def digest(*parts: object) -> str:
    """An id of 16 characters that depends only on the parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


# A line of the file.
_ROW = {"question_id": int, "content": str}


class ReviewStore(Store[int, str]):
    """A judge's words by the question's number, on disk as they come: they cost money.

    Args:
        folder: of the file.
        settings: everything that decides what the judge says.
        overwrite: discard ratings that are there.

    Raises:
        UserError: the file belongs to other settings, is damaged, or cannot be written.
    """

    shape = _ROW

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        super().__init__(folder / "judged.jsonl", settings, "--output", overwrite)

    def _to_row(self, key: int, result: str) -> dict[str, Any]:
        return {"question_id": key, "content": result}

    def _from_row(self, row: Any) -> tuple[int, str]:
        return row["question_id"], row["content"]


def review_rows(
    questions: Sequence[BenchQuestion], answers: Mapping[int, str], words: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Write a judge's words as LLaVA's evaluation does; points that cannot be read are -1, as there."""
    return [
        {
            "id": index,
            "question_id": question.number,
            "answer1_id": digest(question.number, "reference"),
            "answer2_id": digest(question.number, answers[question.number]),
            "category": PREFIX + question.category,
            "content": words[question.number],
            "tuple": list(points(words[question.number])),
        }
        for index, question in enumerate(questions)
    ]


@dataclass(frozen=True)
class JudgedBench:
    """A benchmark with all that a judge is shown but the model's answers.

    Args:
        judge: who rates.
        questions: of the benchmark.
        references: question's number -> the reference's answer.
        captions: image's name -> a description of it.
        folder: for the ratings.
        overwrite: discard ratings that were made with other settings.
    """

    judge: Judge
    questions: Sequence[BenchQuestion]
    references: Mapping[int, str]
    captions: Mapping[str, str]
    folder: Path
    overwrite: bool

    def rate(self, answers: Mapping[int, str]) -> list[Rating]:
        """Have answers rated where they are not yet, and write the reviews in LLaVA's form.

        Args:
            answers: question's number -> the model's answer.

        Raises:
            UserError: the judge fails (ratings made before are kept), or the folder has ratings of other answers.
        """
        messages = {
            question.number: self.judge.message(
                question, self.captions[question.image], self.references[question.number], answers[question.number]
            )
            for question in self.questions
        }
        sha256 = hashlib.sha256("\0".join(messages.values()).encode()).hexdigest()
        settings = {"judge": self.judge.model, "url": self.judge.url, "messages_sha256": sha256}
        store = ReviewStore(require_writable(self.folder), settings, self.overwrite)
        missing = [number for number in messages if number not in store.results]
        progress = Progress("judge", unit="ratings")
        for done, number in enumerate(missing, 1):
            store.add({number: self.judge.ask(messages[number])})
            progress(done, len(missing), done)
        path = self.folder / REVIEWS
        write_json_lines(path, review_rows(self.questions, answers, store.results))
        return read_ratings(path)


def read_judged_bench(
    judge: Judge, folder: Path, questions: Sequence[BenchQuestion], output: Path, overwrite: bool
) -> JudgedBench:
    """Read and check what a judge is shown, before any answer is generated.

    Args:
        judge: who rates.
        folder: of the benchmark.
        questions: those to rate.
        output: folder for the ratings.
        overwrite: discard ratings that were made with other settings.

    Raises:
        UserError: a file is missing or incomplete, or the judge's rules lack a kind of question.
    """
    references = read_answers(folder / REFERENCES, questions)
    captions = read_captions(folder / CONTEXT, questions)
    for question in questions:
        judge.message(question, "", "", "")
    return JudgedBench(judge, questions, references, captions, output, overwrite)


class Scores:
    """The score of ratings.

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
        """The scores in a few lines, with what does not count."""
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
