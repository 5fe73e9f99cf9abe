"""LLaVA-Bench: questions about images, reference answers, descriptions of the images, and a judge's ratings.

Four files of JSON lines, as LLaVA publishes and writes them:

    questions.jsonl      {"question_id": 0, "image": "001.jpg", "text": "...", "category": "conv"}
    answers_gpt4.jsonl   {"question_id": 0, "text": "..."}                  also the form of a model's answers
    context.jsonl        {"image": "001.jpg", "caption": "..."}
    reviews              {"question_id": 0, "category": "llava_bench_conv", "tuple": [9.0, 7.0]}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sharelora.data.rows import Row, place, read_rows
from sharelora.data.vision.conversations import IMAGE, Conversation, Turn
from sharelora.data.vision.images import require_images
from sharelora.support.errors import UserError

QUESTIONS, REFERENCES, CONTEXT, IMAGES = "questions.jsonl", "answers_gpt4.jsonl", "context.jsonl", "images"
# What LLaVA puts before a category in its reviews.
PREFIX = "llava_bench_"

_KINDS: Mapping[type, str] = {int: "a whole number", str: "text"}

Value = TypeVar("Value")


@dataclass(frozen=True)
class BenchQuestion:
    """One question.

    Args:
        number: its question_id.
        image: the image's name.
        text: the question.
        category: kind of question: conv, detail or complex.
        conversation: the same as a conversation to be answered.
    """

    number: int
    image: str
    text: str
    category: str
    conversation: Conversation


def read_questions(folder: Path, image_folder: Path | None = None) -> list[BenchQuestion]:
    """Read the questions of a folder and find their images.

    Args:
        folder: has `questions.jsonl`.
        image_folder: by default `images` in it.

    Raises:
        UserError: a file, a field or an image is missing, or two questions have one id.
    """
    path, images = folder / QUESTIONS, image_folder or folder / IMAGES
    questions = [_question(row, where, images) for row, where in _rows(path)]
    numbers = [question.number for question in questions]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise UserError(f"{path} has the question_id {twice[0]} more than once; need one each; correct the file")
    require_images([question.conversation for question in questions])
    return questions


def _question(row: Row, where: str, images: Path) -> BenchQuestion:
    number, image = _field(row, "question_id", int, where), _field(row, "image", str, where)
    text, category = _field(row, "text", str, where), _field(row, "category", str, where)
    name = f"{where} (question_id {number})"
    # The mark for the image goes before the question, as in LLaVA's own evaluation.
    turn = Turn("user", f"{IMAGE}\n{text.replace(IMAGE, '').strip()}")
    return BenchQuestion(
        number, image, text, category.removeprefix(PREFIX), Conversation(name, (images / image,), (turn,))
    )


def _field(row: Row, name: str, kind: type[Value], where: str) -> Value:
    value = row.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{where} has {name} {value!r}; need {_KINDS[kind]}; correct the row")
    return value


def read_answers(path: Path, questions: Sequence[BenchQuestion]) -> dict[int, str]:
    """Read answers, of the reference or of a model: question_id -> text.

    Raises:
        UserError: the file is missing or has another form, or a question has no answer.
    """

    def answer(row: Row, where: str) -> tuple[int, str]:
        return _field(row, "question_id", int, where), _field(row, "text", str, where)

    answers = dict(answer(row, where) for row, where in _rows(path))
    _require(answers, [question.number for question in questions], path, "an answer to question_id")
    return answers


def read_captions(path: Path, questions: Sequence[BenchQuestion]) -> dict[str, str]:
    """Read descriptions of the images: image's name -> text.

    Raises:
        UserError: the file is missing or has another form, or an image is not described.
    """

    def caption(row: Row, where: str) -> tuple[str, str]:
        # Some images are described in several sentences, as a list.
        text = row.get("caption")
        if isinstance(text, list) and all(isinstance(sentence, str) for sentence in text):
            row = {**row, "caption": "\n".join(text)}
        return _field(row, "image", str, where), _field(row, "caption", str, where)

    captions = dict(caption(row, where) for row, where in _rows(path))
    _require(captions, [question.image for question in questions], path, "a description of")
    return captions


def _rows(path: Path) -> list[tuple[Row, str]]:
    """The rows of a file, each with its name for messages."""
    return [(row, place(row, number)) for number, row in enumerate(read_rows(path), 1)]


def _require(values: Mapping[Any, str], wanted: Sequence[Any], path: Path, what: str) -> None:
    missing = [value for value in wanted if value not in values]
    if missing:
        raise UserError(f"{path} lacks {what} {missing[0]} ({len(missing)} are missing); need all; complete the file")


@dataclass(frozen=True)
class Rating:
    """A judge's points for the two answers to one question.

    Args:
        number: the question's.
        category: its kind.
        reference: points of the reference's answer; None where the judge's words have no points.
        model: points of the model's answer; as for the reference.
    """

    number: int
    category: str
    reference: float | None
    model: float | None


def read_ratings(path: Path, known: Callable[[int], bool] = lambda number: True) -> list[Rating]:
    """Read a judge's reviews in LLaVA's form; points of -1, its mark for words without points, become None.

    Args:
        path: the file.
        known: whether there is a question of a number.

    Raises:
        UserError: the file is missing or has another form, or rates a question twice or one that does not exist.
    """
    ratings = [_rating(row, where) for row, where in _rows(path)]
    numbers = [rating.number for rating in ratings]
    strange = [number for number in numbers if not known(number) or numbers.count(number) > 1]
    if strange:
        what = "twice" if known(strange[0]) else "though there is no such question"
        raise UserError(f"{path} rates question_id {strange[0]} {what}; need one rating a question; correct the file")
    return ratings


def _rating(row: Row, where: str) -> Rating:
    number, category = _field(row, "question_id", int, where), _field(row, "category", str, where)
    points = row.get("tuple")
    if not isinstance(points, list) or len(points) != 2 or not all(map(_is_number, points)):
        raise UserError(f"{where} has the tuple {points!r}; need two numbers, reference and model; correct the row")
    reference, model = (None if value < 0 else float(value) for value in points)
    return Rating(number, category.removeprefix(PREFIX), reference, model)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
