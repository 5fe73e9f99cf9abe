"""The eight commonsense tasks in small, in the form of LLM-Adapters: questions about what is true of things."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sharelora.data.commonsense import LEAD
from sharelora.support.files import write_text
from sharelora.tiny.world import PEOPLE, World

SIZES = {"train": 96, "test": 24}
Row = dict[str, str]


@dataclass(frozen=True)
class Form:
    """How a task asks for the one value, or thing, that fits.

    Args:
        about: the property that is asked for.
        opening: what every instruction begins with.
        question: with the thing, its value and a person.
        option: one option, with a value or a thing.
        word: what an answer is called.
        count: how many options there are.
        between: what stands between options.
        things: whether options are things rather than values.
    """

    about: str
    opening: str
    question: str
    option: str
    word: str = "answer"
    count: int = 4
    between: str = " "
    things: bool = False


_ANSWER = "Please choose the correct answer to the question: "
_SOLUTION = "Please choose the correct solution to the question: "
_ENDING = "Please choose the correct ending to complete the given sentence: "
_BLANK = "Please choose the correct answer to fill in the blank to complete the given sentence: "
_TRUTH = "Please answer the following question with true or false, question: "
FORMS: dict[str, Form] = {
    "piqa": Form("place", _SOLUTION, "Find the {thing}.", "Go to the {}.", "solution", 2, "\n\n"),
    "social_i_qa": Form("place", _ANSWER, "{person} looks for the {thing}. Where to?", "to the {}", count=3),
    "hellaswag": Form("colour", _ENDING, "Looking: {person} saw the {thing}. It", "was {}.", "ending", between="\n\n"),
    "winogrande": Form("colour", _BLANK, "The _ is {value}.", "{}", "option", 2, things=True),
    "ARC-Easy": Form("kind", _ANSWER, "What kind of thing is the {thing}?", "{}"),
    "ARC-Challenge": Form("place", _ANSWER, "Which is found in the {value}?", "the {}", things=True),
    "openbookqa": Form("colour", _ANSWER, "The {thing} is", "{}"),
}


def _choice(world: World, rng: random.Random, form: Form, right: int) -> Row:
    """A question whose answer stands at a place."""
    known = world.facts[form.about]
    thing = rng.choice(world.things)
    others = sorted({name if form.things else value for name, value in known.items() if value != known[thing]})
    options = rng.sample(others, form.count - 1)
    options.insert(right, thing if form.things else known[thing])
    words = [f"{form.word}{number}" for number in range(1, form.count + 1)]
    listed = form.between.join(
        f"{word.capitalize()}: {form.option.format(option)}" for word, option in zip(words, options, strict=True)
    )
    question = form.question.format(thing=thing, value=known[thing], person=rng.choice(PEOPLE))
    # WinoGrande's published instructions have no empty line here.
    end = " " if form.word == "option" else "\n\n"
    return _row(f"{form.opening}{question}\n\n{listed}{end}", words, words[right])


def _truth(world: World, rng: random.Random, right: bool) -> Row:
    thing, known = rng.choice(world.things), world.facts["colour"]
    value = known[thing] if right else rng.choice(sorted(set(known.values()) - {known[thing]}))
    return _row(f"{_TRUTH}is the {thing} {value}?\n\n", ["true", "false"], "true" if right else "false")


def _row(question: str, words: list[str], answer: str) -> Row:
    instruction = f"{question}Answer format: {'/'.join(words)}"
    return {"instruction": instruction, "input": "", "output": LEAD + answer, "answer": answer}


def commonsense_rows(world: World, task: str, split: str) -> Iterator[Row]:
    """The rows of a task's file; every place is right equally often."""
    rng = random.Random(f"{task} {split}")
    for number in range(SIZES[split]):
        if task == "boolq":
            yield _truth(world, rng, number % 2 == 0)
        else:
            yield _choice(world, rng, FORMS[task], number % FORMS[task].count)


def write_commonsense(folder: Path, world: World) -> None:
    """Write every task below a folder."""
    for task in ("boolq", *FORMS):
        for split in SIZES:
            rows = list(commonsense_rows(world, task, split))
            write_text(folder / task / f"{split}.json", json.dumps(rows, indent=1) + "\n")
