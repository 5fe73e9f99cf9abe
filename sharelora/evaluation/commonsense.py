"""Commonsense tasks answered in two ways: by the likelihood of the answer words, and by what the model writes.

Both see the Alpaca prompt that tuning uses. LLM-Adapters scores what is written (there with a beam search of width 4;
here the likeliest token every time, or drawn). A text without any answer word is wrong, and counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharelora.data.commonsense import LEAD, CommonsenseItem, find_answer
from sharelora.data.formats import FORMATS
from sharelora.evaluation.encoding import Item
from sharelora.evaluation.generation import Generated, Prompt
from sharelora.evaluation.likelihood import Prepared, score_answers
from sharelora.evaluation.multiple_choice import Listener
from sharelora.metrics import accuracy


@dataclass(frozen=True)
class Answers:
    """What a model answered in one way.

    Args:
        found: the answer to each item; None where there is none, which counts as wrong.
        rows: what else the record of each item says.
        costs: what it took, and what else was counted.
        seconds: wall clock time; for texts of several runs that of all of them.
    """

    found: tuple[str | None, ...]
    rows: tuple[dict[str, Any], ...]
    costs: dict[str, Any]
    seconds: float

    def metrics(self, items: Sequence[CommonsenseItem]) -> dict[str, Any]:
        """Every number: the mean over tasks, as papers report it, the mean over questions, and each task's."""
        right = [found == item.answer for found, item in zip(self.found, items, strict=True)]
        tasks = accuracy.by_group(right, [item.task for item in items])
        micro = accuracy.micro(tasks)
        return {
            "accuracy": accuracy.macro(tasks),
            "accuracy_stderr": accuracy.macro_standard_error(tasks),
            "accuracy_micro": micro.mean,
            "accuracy_micro_stderr": micro.standard_error,
            "chance": _chance(items),
            "questions": micro.count,
            "right": micro.right,
            **self.costs,
            "seconds": self.seconds,
            "tasks": accuracy.table(tasks),
        }


def _chance(items: Sequence[CommonsenseItem]) -> float:
    """The mean over tasks of the accuracy of guessing one of the words."""
    counts: dict[str, list[int]] = {}
    for item in items:
        counts.setdefault(item.task, []).append(len(item.answers))
    return math.fsum(map(accuracy.chance, counts.values())) / len(counts)


def prompts(items: Sequence[CommonsenseItem]) -> list[tuple[str, str]]:
    """The prompt of each item: what all of its task begin with, and the rest."""
    view = FORMATS["alpaca"][0]
    every = [view.prompt({"instruction": item.instruction, "input": item.input}) for item in items]
    texts: dict[str, list[str]] = {}
    for item, text in zip(items, every, strict=True):
        texts.setdefault(item.task, []).append(text)
    starts = {task: _beginning(found) for task, found in texts.items()}
    pairs = zip([starts[item.task] for item in items], every, strict=True)
    return [(start, text.removeprefix(start)) for start, text in pairs]


def _beginning(texts: Sequence[str]) -> str:
    """What all texts begin with, up to a space: no token reaches from one word into the next."""
    pairs = enumerate(zip(first := min(texts), max(texts), strict=False))
    return first[: next((place for place, (a, b) in pairs if a != b), len(first))].rpartition(" ")[0]


def choices(items: Sequence[CommonsenseItem]) -> list[Item]:
    """Items as multiple choice, each with everything that could be learnt for it as answers."""
    return [
        Item(prefix, text, tuple(LEAD + word for word in item.answers), item.task)
        for item, (prefix, text) in zip(items, prompts(items), strict=True)
    ]


def questions(items: Sequence[CommonsenseItem]) -> list[Prompt]:
    """Items as prompts to go on from; what is drawn for an item depends on its instruction, not on its place."""
    return [Prompt(*pair, item.instruction) for item, pair in zip(items, prompts(items), strict=True)]


def answer_by_likelihood(
    model: Any,
    items: Sequence[CommonsenseItem],
    prepared: Prepared,
    batch_size: int | str = "auto",
    listener: Listener | None = None,
) -> Answers:
    """Answer with the word that is most likely behind `the correct answer is`.

    Args:
        model, batch_size, listener: see `sharelora.evaluation.likelihood.score_answers`.
        items: the questions.
        prepared: the same, tokenised: `prepare_answers` of their `choices`.

    Raises:
        UserError: see there.
    """
    began = time.perf_counter()
    scored = score_answers(model, prepared, batch_size, listener=listener)
    pairs = list(zip(items, scored.choices, strict=True))
    ties = sum(found.tied for found in scored.choices)
    return Answers(
        tuple(item.answers[found.prediction] for item, found in pairs),
        tuple({"scores": dict(zip(item.answers, found.scores, strict=True))} for item, found in pairs),
        {"tokens": scored.tokens, "prompt_tokens": scored.prompt_tokens, "ties": ties},
        time.perf_counter() - began,
    )


def answer_by_writing(
    items: Sequence[CommonsenseItem], texts: Sequence[Generated], costs: Mapping[str, Any]
) -> Answers:
    """Answer with the first answer word that the model wrote.

    Args:
        items: the questions.
        texts: what it wrote after the prompt of each.
        costs: what that took, its tokens among it.
    """
    found = tuple(find_answer(item.task, one.text) for item, one in zip(items, texts, strict=True))
    return Answers(
        found,
        tuple(_text(one) for one in texts),
        {**costs, "unanswered": found.count(None)},
        sum(one.seconds for one in texts),
    )


def text_row(item: CommonsenseItem, text: Generated) -> dict[str, Any]:
    """What is known of an item before its text is scored."""
    return {"task": item.task, "instruction": item.instruction, "answer": item.answer, **_text(text)}


def _text(text: Generated) -> dict[str, Any]:
    return {"text": text.text, "tokens": text.tokens, "ended": text.ended}


def records(items: Sequence[CommonsenseItem], ways: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """One record per question: what was asked, and what was answered in each way.

    Args:
        items: the questions.
        ways: name -> answers.
    """
    return [
        {
            "task": item.task,
            "instruction": item.instruction,
            "answer": item.answer,
            **{
                name: {"prediction": way.found[place], "right": way.found[place] == item.answer, **way.rows[place]}
                for name, way in ways.items()
            },
        }
        for place, item in enumerate(items)
    ]
