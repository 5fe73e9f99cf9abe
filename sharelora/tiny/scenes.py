"""Sentences and pairs of sentences about what happens to people, for the tiny RoBERTa's text and tasks in GLUE's form.

There are a few happenings, questions and reasons, each with words of its own and several ways to say it. Two sentences
can say the same, one can follow from another, answer it, or explain it: all that the tasks ask. The encoder reads only
pairs that fit, so that it learns which words go together; no text has a label.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sharelora.tiny.text import Document, Maker, facts
from sharelora.tiny.world import COLOURS, PEOPLE, PLACES, World

# What a sentence leaves open -> a value.
Slots = Mapping[str, str]

DAYS = "Monday Tuesday Wednesday Thursday Friday Sunday".split()

# Each has all five slots of an event.
EVENTS = (
    "{person} spotted the {colour} {thing} in the {place} on {day}.",
    "On {day} {person} found the {colour} {thing} in the {place}.",
    "In the {place} {person} met the {colour} {thing} on {day}.",
)


def event(world: World, rng: random.Random) -> dict[str, str]:
    """A new event: its slots are dealt by chance, whatever the thing's true colour and place."""
    return {
        "person": rng.choice(PEOPLE),
        "colour": rng.choice(COLOURS),
        "thing": rng.choice(world.things),
        "place": rng.choice(PLACES),
        "day": rng.choice(DAYS),
    }


def say(ways: tuple[str, ...], slots: Slots, rng: random.Random) -> str:
    """One of several ways to say something."""
    return rng.choice(ways).format(**slots)


@dataclass(frozen=True)
class Happening:
    """Something that happens.

    Args:
        kind: two happenings of a kind are a little alike.
        ways: sentences that say it.
        follows: what follows from it.
    """

    kind: str
    ways: tuple[str, str, str]
    follows: tuple[str, str]


HAPPENINGS: Mapping[str, Happening] = {
    "rain": Happening(
        "weather",
        (
            "It rained on {person} the whole {day}.",
            "{person} came home wet on {day}, umbrella and all.",
            "On {day} water poured from dark clouds over {person}.",
        ),
        ("{person} needed dry clothes.", "The streets were full of puddles."),
    ),
    "snow": Happening(
        "weather",
        (
            "It snowed where {person} was on {day}.",
            "{person} made a snowman in the white garden on {day}.",
            "On {day} {person} slid over the frozen lake.",
        ),
        ("{person} needed warm gloves.", "It was freezing cold outside."),
    ),
    "cooking": Happening(
        "house",
        (
            "{person} cooked a hot soup on {day}.",
            "There was a sweet meal at the table of {person} on {day}.",
            "On {day} {person} stood in the kitchen and baked a cake.",
        ),
        ("{person} was not hungry any more.", "The plates were full of food."),
    ),
    "buying": Happening(
        "house",
        (
            "{person} bought a basket at the market on {day}.",
            "{person} went home with a full bag and no coins on {day}.",
            "On {day} {person} paid a high price in the shop.",
        ),
        ("{person} spent some money.", "The seller was glad."),
    ),
    "music": Happening(
        "pastime",
        (
            "{person} played the flute in the orchestra on {day}.",
            "The drum of {person} was heard at the concert on {day}.",
            "On {day} {person} sang a loud song with the choir.",
        ),
        ("{person} can read notes.", "The tune stayed in every ear."),
    ),
    "sport": Happening(
        "pastime",
        (
            "{person} won the race on {day}.",
            "{person} ran faster than the whole team on {day}.",
            "On {day} {person} threw the ball and scored a goal.",
        ),
        ("{person} is strong and fit.", "The match was over at last."),
    ),
}
# What a happening says nothing about.
OPEN = ("{person} has a brother.", "The {thing} is made of paper.", "{person} writes letters.", "A door was {colour}.")
# Another genre: the same as part of a letter.
LETTER = "Dear {friend}: {text}"

QUESTIONS: Mapping[str, tuple[str, str, str]] = {
    "who": (
        "Who brought the {thing} to {person}?",
        "Which friend gave the {thing} to {person}?",
        "From whom did {person} get the {thing}?",
    ),
    "where": (
        "Where did {person} leave the {thing}?",
        "In which place did {person} put the {thing}?",
        "What place did {person} find for the {thing}?",
    ),
    "when": (
        "When did {person} see the {thing}?",
        "On which day did {person} see the {thing}?",
        "What day was it when {person} saw the {thing}?",
    ),
    "colour": (
        "What colour has the {thing} of {person}?",
        "How is the {thing} of {person} painted?",
        "Is the {thing} of {person} bright or dark?",
    ),
    "number": (
        "How many apples did {person} pay for the {thing}?",
        "What number of apples did the {thing} cost {person}?",
        "Was the {thing} worth few or many apples to {person}?",
    ),
}
ANSWERS: Mapping[str, str] = {
    "who": "{friend} gave the {thing} to {person}.",
    "where": "{person} put the {thing} in the {place}.",
    "when": "{person} saw the {thing} on {day}.",
    "colour": "The {thing} of {person} is painted {colour}.",
    "number": "{person} paid {number} apples for the {thing}.",
}
NUMBERS = "two three four five six seven".split()

# A sentence with `it`, and who is meant.
REFERENCES = (
    ("The {one} fled from the {other} because it was afraid.", "Whoever ran away was afraid."),
    ("The {one} carried the {other} because it was lame.", "Whoever sat on the back was lame."),
    ("The {one} beat the {other} because it was stronger.", "Whoever won was stronger."),
    ("The {one} fed the {other} because it was hungry.", "Whoever got bread was hungry."),
    ("The {one} woke the {other} because it slept too long.", "Whoever was in bed slept too long."),
)

GOOD = "lovely bright clever charming splendid warm graceful witty".split()
BAD = "dull dreadful clumsy boring awful bitter cold careless".split()
WORKS = "play song story dance picture book show film".split()
OPINIONS = (
    "The {work} was {first} and {second}.",
    "What a {first} {work}, so {second}!",
    "{person} found the {work} {first} and rather {second}.",
    "A {first}, {second} {work} by {person}.",
)


def new_slots(world: World, rng: random.Random) -> dict[str, str]:
    """New values for every slot of every sentence."""
    slots = event(world, rng)
    friend = event(world, rng)["person"]
    return {**slots, "friend": friend, "number": rng.choice(NUMBERS)}


def another_day(slots: Slots, rng: random.Random) -> dict[str, str]:
    """The same slots with another day."""
    return {**slots, "day": rng.choice([day for day in DAYS if day != slots["day"]])}


def sentence(name: str, slots: Slots, rng: random.Random) -> str:
    """A sentence that says that something happens."""
    return say(HAPPENINGS[name].ways, slots, rng)


def opinion(world: World, rng: random.Random, words: list[str]) -> str:
    """A sentence that is all praise or all blame.

    Args:
        world: where people are.
        rng: the random source.
        words: `GOOD` or `BAD`.
    """
    first, second = rng.sample(words, 2)
    return rng.choice(OPINIONS).format(**new_slots(world, rng), first=first, second=second, work=rng.choice(WORKS))


def reference(number: int, world: World, rng: random.Random) -> str:
    """A sentence with `it`."""
    one, other = rng.sample(world.things, 2)
    return REFERENCES[number][0].format(one=one, other=other)


def _retold(world: World, rng: random.Random) -> Document:
    slots, ways = new_slots(world, rng), rng.choice(tuple(HAPPENINGS.values())).ways
    first, second = rng.sample(ways, 2)
    return first.format(**slots), second.format(**slots)


def _followed(world: World, rng: random.Random) -> Document:
    slots, name = new_slots(world, rng), rng.choice(tuple(HAPPENINGS))
    first = sentence(name, slots, rng)
    if rng.random() < 0.5:
        first = LETTER.format(text=first, **slots)
    return first, rng.choice(HAPPENINGS[name].follows).format(**slots)


def _left_open(world: World, rng: random.Random) -> Document:
    slots = new_slots(world, rng)
    return sentence(rng.choice(tuple(HAPPENINGS)), slots, rng), rng.choice(OPEN).format(**slots)


def _answered(world: World, rng: random.Random) -> Document:
    slots, name = new_slots(world, rng), rng.choice(tuple(QUESTIONS))
    return rng.choice(QUESTIONS[name]).format(**slots), ANSWERS[name].format(**slots)


def _asked_twice(world: World, rng: random.Random) -> Document:
    slots, ways = new_slots(world, rng), rng.choice(tuple(QUESTIONS.values()))
    first, second = rng.sample(ways, 2)
    return first.format(**slots), second.format(**slots)


def _explained(world: World, rng: random.Random) -> Document:
    number = rng.randrange(len(REFERENCES))
    return reference(number, world, rng), REFERENCES[number][1]


def _opinion(world: World, rng: random.Random) -> Document:
    return (opinion(world, rng, rng.choice((GOOD, BAD))),)


# How often the encoder reads each kind of document.
ENCODER_MIXTURE: dict[Maker, int] = {
    _retold: 18,
    _followed: 30,
    _left_open: 4,
    _answered: 13,
    _asked_twice: 13,
    _explained: 10,
    _opinion: 8,
    facts: 4,
}


def encoder_documents(world: World, rng: random.Random) -> Iterator[Document]:
    """Documents of one or two sentences without end, in the proportions of `ENCODER_MIXTURE`."""
    makers, weights = list(ENCODER_MIXTURE), list(ENCODER_MIXTURE.values())
    while True:
        yield rng.choices(makers, weights)[0](world, rng)
