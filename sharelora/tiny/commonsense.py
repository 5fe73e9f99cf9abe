"""The eight commonsense tasks in small, as LLM-Adapters publishes them: questions about what is true of things."""

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
class Template:
    """How a task asks for the one value, or thing, that fits.

    Args:
        about: the property that is asked for.
        opening: the beginning of every instruction.
        question: with the thing, its value and a person.
        option: one option, with a value or a thing.
        word: what an answer is called.
        count: how many options there are.
        between: the text between options.
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
TEMPLATES: dict[str, Template] = {
    "piqa": Template("place", _SOLUTION, "Find the {thing}.", "Go to the {}.", "solution", 2, "\n\n"),
    "social_i_qa": Template("place", _ANSWER, "{person} looks for the {thing}. Where to?", "to the {}", count=3),
    "hellaswag": Template(
        "colour", _ENDING, "Looking: {person} saw the {thing}. It", "was {}.", "ending", between="\n\n"
    ),
    "winogrande": Template("colour", _BLANK, "The _ is {value}.", "{}", "option", 2, things=True),
    "ARC-Easy": Template("kind", _ANSWER, "What kind of thing is the {thing}?", "{}"),
    "ARC-Challenge": Template("place", _ANSWER, "Which is found in the {value}?", "the {}", things=True),
    "openbookqa": Template("colour", _ANSWER, "The {thing} is", "{}"),
}


def _choice(world: World, rng: random.Random, template: Template, right: int) -> Row:
    """A question with its answer at a position among the options."""
    known = world.facts[template.about]
    thing = rng.choice(world.things)
    others = sorted({name if template.things else value for name, value in known.items() if value != known[thing]})
    options = rng.sample(others, template.count - 1)
    options.insert(right, thing if template.things else known[thing])
    words = [f"{template.word}{number}" for number in range(1, template.count + 1)]
    listed = template.between.join(
        f"{word.capitalize()}: {template.option.format(option)}" for word, option in zip(words, options, strict=True)
    )
    question = template.question.format(thing=thing, value=known[thing], person=rng.choice(PEOPLE))
    # WinoGrande's published instructions have no empty line here.
    end = " " if template.word == "option" else "\n\n"
    return _row(f"{template.opening}{question}\n\n{listed}{end}", words, words[right])


def _truth(world: World, rng: random.Random, right: bool) -> Row:
    thing, known = rng.choice(world.things), world.facts["colour"]
    value = known[thing] if right else rng.choice(sorted(set(known.values()) - {known[thing]}))
    return _row(f"{_TRUTH}is the {thing} {value}?\n\n", ["true", "false"], "true" if right else "false")


def _row(question: str, words: list[str], answer: str) -> Row:
    instruction = f"{question}Answer format: {'/'.join(words)}"
    return {"instruction": instruction, "input": "", "output": LEAD + answer, "answer": answer}


def commonsense_rows(world: World, task: str, split: str) -> Iterator[Row]:
    """The rows of a task's file; every position is right equally often."""
    rng = random.Random(f"{task} {split}")
    for number in range(SIZES[split]):
        if task == "boolq":
            yield _truth(world, rng, number % 2 == 0)
        else:
            yield _choice(world, rng, TEMPLATES[task], number % TEMPLATES[task].count)


def write_commonsense(folder: Path, world: World) -> None:
    """Write every task below a folder."""
    for task in ("boolq", *TEMPLATES):
        for split in SIZES:
            rows = list(commonsense_rows(world, task, split))
            write_text(folder / task / f"{split}.json", json.dumps(rows, indent=1) + "\n")
