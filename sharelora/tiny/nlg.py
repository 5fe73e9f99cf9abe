"""Restaurants and things, as data and in words: E2E, WebNLG 2017 and DART in small, and what the tiny GPT-2 reads.

The model reads descriptions without their data, and sentences about events after a list of what happened, so that it
has learnt to write down what it is given. What attributes of restaurants and properties of things mean is left to
tuning, on files in the formats and the layout of the official ones: every input has several texts, and no input of
train is in dev or test. WebNLG's test set also has categories that its train set lacks.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from sharelora.data.nlg.linearise import spaced
from sharelora.support.files import write_text
from sharelora.tiny.scenes import EVENTS, event, say
from sharelora.tiny.text import Document, Maker, facts
from sharelora.tiny.world import COLOURS, KINDS, World

# E2E's attributes in the order of its files; what is not a choice of values is a name.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "name": (),
    "eatType": ("pub", "coffee shop", "restaurant"),
    "food": ("English", "French", "Italian", "Indian", "Chinese"),
    "priceRange": ("cheap", "moderate", "high"),
    "customer rating": ("low", "average", "high"),
    "area": ("riverside", "city centre"),
    "familyFriendly": ("yes", "no"),
    "near": (),
}
ALWAYS = ("name", "eatType")

Attributes = Mapping[str, str]

# Ways to begin; what a restaurant has besides a name and a type follows in sentences and parts of sentences.
OPENINGS = (
    "{name} is a {family}{food}{eatType}{area}{near}.",
    "{area_first}there is a {family}{food}{eatType} called {name}{near}.",
    "The {family}{food}{eatType} {name} is found{area}{near}.",
)
MORE = (
    ("Its prices are {priceRange}.", "It has a {customer rating} customer rating."),
    ("The price range is {priceRange}.", "Customers rate it {customer rating}."),
    ("You will pay {priceRange} prices.", "The rating by customers is {customer rating}."),
)
FAMILY = {"yes": "family friendly ", "no": "not family friendly "}


def restaurant(world: World, rng: random.Random) -> dict[str, str]:
    """A new restaurant: a name, a type and two to five other attributes, in E2E's order."""
    others = rng.sample([name for name in ATTRIBUTES if name not in ALWAYS], rng.randint(2, 5))
    values = {name: rng.choice(choices) if choices else _name(world, rng) for name, choices in ATTRIBUTES.items()}
    return {name: value for name, value in values.items() if name in (*ALWAYS, *others)}


def _name(world: World, rng: random.Random) -> str:
    return f"The {rng.choice(COLOURS).title()} {rng.choice(world.things).title()}"


def describe(attributes: Attributes, way: int) -> str:
    """Describe a restaurant with all of its attributes.

    Args:
        attributes: E2E's name of each -> its value.
        way: which of the ways to put it, 0 to 2.
    """
    area = f"in the {attributes['area']}" if "area" in attributes else ""
    parts = {
        **attributes,
        "food": f"{attributes['food']} " if "food" in attributes else "",
        "family": FAMILY[attributes["familyFriendly"]] if "familyFriendly" in attributes else "",
        "area": f" {area}" if area else "",
        "area_first": f"{area} " if area else "",
        "near": f" near {attributes['near']}" if "near" in attributes else "",
    }
    more = [text for text, name in zip(MORE[way], ("priceRange", "customer rating"), strict=True) if name in attributes]
    text = " ".join([OPENINGS[way], *more]).format(**parts)
    return text[0].upper() + text[1:]


# What is true of a thing, as triples and in words.
Fact = tuple[str, str, str]
PROPERTIES = {"kind": "kindOfThing", "colour": "mainColour", "place": "foundIn"}
WORDS: Mapping[frozenset[str], tuple[str, ...]] = {
    frozenset({"kind"}): ("The {thing} is a kind of {kind}.", "A {thing} is one kind of {kind}."),
    frozenset({"colour"}): ("The {thing} is {colour}.", "The colour of the {thing} is {colour}."),
    frozenset({"place"}): ("The {thing} is found in the {place}.", "In the {place} you will find the {thing}."),
    frozenset({"kind", "colour"}): (
        "The {thing} is a {colour} kind of {kind}.",
        "The {thing}, a kind of {kind}, is {colour}.",
    ),
    frozenset({"kind", "place"}): (
        "The {thing} is a kind of {kind} found in the {place}.",
        "In the {place} you will find the {thing}, a kind of {kind}.",
    ),
    frozenset({"colour", "place"}): (
        "The {colour} {thing} is found in the {place}.",
        "The {thing} in the {place} is {colour}.",
    ),
    frozenset({"kind", "colour", "place"}): (
        "The {thing} is a {colour} kind of {kind} found in the {place}.",
        "In the {place} you will find the {colour} {thing}, a kind of {kind}.",
    ),
}


def triples(world: World, thing: str, known: Sequence[str]) -> list[Fact]:
    """What is known of a thing: subject, property and object of each fact."""
    return [(thing, PROPERTIES[name], world.facts[name][thing]) for name in known]


def tell(world: World, thing: str, known: Sequence[str], way: int) -> str:
    """The same in a sentence.

    Args:
        world: what is true.
        thing: what it is about.
        known: some of kind, colour and place.
        way: which of the ways to put it, 0 or 1.
    """
    values = {name: world.facts[name][thing] for name in known}
    return WORDS[frozenset(known)][way].format(thing=thing, **values)


# Ways to list what happened.
LISTS = ((" is ", " , "), (" : ", " | "), (" = ", " ; "))


def _listed_event(world: World, rng: random.Random) -> Document:
    slots = event(world, rng)
    if rng.random() < 0.5:
        # Names of several words have to be copied whole.
        slots["person"] = _name(world, rng)
    names = rng.sample(tuple(slots), len(slots))
    between, after = rng.choice(LISTS)
    return after.join(f"{name}{between}{slots[name]}" for name in names), " " + spaced(say(EVENTS, slots, rng))


def _described(world: World, rng: random.Random) -> Document:
    return (" " + spaced(describe(restaurant(world, rng), rng.randrange(len(OPENINGS)))),)


def _told(world: World, rng: random.Random) -> Document:
    thing = rng.choice(world.things)
    known = [name for name in PROPERTIES if rng.random() < 0.6] or ["kind"]
    return (" " + tell(world, thing, known, rng.randrange(2)),)


# How often the tiny GPT-2 reads each kind of document.
DECODER_MIXTURE: dict[Maker, int] = {_listed_event: 70, _described: 15, _told: 10, facts: 5}


def decoder_documents(world: World, rng: random.Random) -> Iterator[Document]:
    """Documents of one or two texts without end, in the proportions of `DECODER_MIXTURE`."""
    makers, weights = list(DECODER_MIXTURE), list(DECODER_MIXTURE.values())
    while True:
        yield rng.choices(makers, weights)[0](world, rng)


# Inputs per split.
E2E_SIZES = {"train": 640, "dev": 48, "test": 48}
E2E_FILES = {"train": "trainset.csv", "dev": "devset.csv", "test": "testset_w_refs.csv"}
TRIPLE_SIZES = {"train": 160, "dev": 24, "test": 40}
WEBNLG_FILES = {"train": "train/train.xml", "dev": "dev/dev.xml", "test": "test/testdata_with_lex.xml"}
# Kinds of things under names of real categories: those of the train set, and two that only the test set has.
SEEN = {"fruit": "Food", "tool": "Building", "animal": "SportsTeam", "flower": "Monument"}
UNSEEN = {"vehicle": "MeanOfTransportation", "instrument": "Artist"}
UNSEEN_SIZE = 24
WAYS = (0, 1)
_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'

# A thing and what is known of it.
Input = tuple[str, tuple[str, ...]]


def _e2e_rows(world: World, split: str, used: set[str]) -> Iterator[tuple[str, str]]:
    rng = random.Random(f"e2e {split}")
    for _ in range(E2E_SIZES[split]):
        meaning = ""
        while not meaning or meaning in used:
            attributes = restaurant(world, rng)
            meaning = ", ".join(f"{name}[{value}]" for name, value in attributes.items())
        used.add(meaning)
        ways = rng.sample(range(len(OPENINGS)), rng.randint(2, len(OPENINGS)))
        yield from ((meaning, describe(attributes, way)) for way in ways)


def _write_e2e(folder: Path, world: World) -> None:
    used: set[str] = set()
    for split, name in E2E_FILES.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("mr", "ref"))
        writer.writerows(_e2e_rows(world, split, used))
        write_text(folder / name, text.getvalue())


def _inputs(kinds: Sequence[str]) -> list[Input]:
    """Everything that can be said about things of some kinds."""
    known = [names for size in (1, 2, 3) for names in itertools.combinations(PROPERTIES, size)]
    return [(thing, names) for kind in kinds for thing in KINDS[kind].split() for names in known]


def dealt(seed: str) -> dict[str, list[Input]]:
    """Deal inputs about seen kinds out to the splits; every input goes to one of them or to none."""
    rng = random.Random(seed)
    waiting = iter(rng.sample(inputs := _inputs(tuple(SEEN)), len(inputs)))
    return {split: list(itertools.islice(waiting, size)) for split, size in TRIPLE_SIZES.items()}


def _category(thing: str) -> str:
    return next(name for kind, name in {**SEEN, **UNSEEN}.items() if thing in KINDS[kind].split())


def _entry(world: World, number: int, facts: Input) -> ElementTree.Element:
    thing, known = facts
    entry = ElementTree.Element("entry", category=_category(thing), eid=f"Id{number}", size=str(len(known)))
    for name, child in (("originaltripleset", "otriple"), ("modifiedtripleset", "mtriple")):
        triple_set = ElementTree.SubElement(entry, name)
        for triple in triples(world, thing, known):
            ElementTree.SubElement(triple_set, child).text = " | ".join(triple)
    for way in WAYS:
        ElementTree.SubElement(entry, "lex", comment="good", lid=f"Id{way + 1}").text = tell(world, thing, known, way)
    if not number % 8:
        ElementTree.SubElement(entry, "lex", comment="toFix", lid="Id9").text = f"{thing} {' '.join(known)}"
    return entry


def _write_webnlg(folder: Path, world: World) -> None:
    splits = dealt("webnlg")
    splits["test"] += random.Random("webnlg unseen").sample(_inputs(tuple(UNSEEN)), UNSEEN_SIZE)
    for split, name in WEBNLG_FILES.items():
        root = ElementTree.Element("benchmark")
        entries = ElementTree.SubElement(root, "entries")
        entries.extend(_entry(world, number, facts) for number, facts in enumerate(splits[split], 1))
        ElementTree.indent(root)
        write_text(folder / name, f"{_DECLARATION}\n{ElementTree.tostring(root, encoding='unicode')}\n")


def _write_dart(folder: Path, world: World) -> None:
    for split, inputs in dealt("dart").items():
        rows = [
            {
                "tripleset": [
                    [name, relation.upper(), value] for name, relation, value in triples(world, thing, known)
                ],
                "subtree_was_extended": False,
                "annotations": [{"source": "tiny", "text": tell(world, thing, known, way)} for way in WAYS],
            }
            for thing, known in inputs
        ]
        write_text(folder / f"dart-v1.1.1-full-{split}.json", json.dumps(rows, indent=1) + "\n")


def write_nlg(folder: Path, world: World) -> None:
    """Write every data set below a folder."""
    _write_e2e(folder / "e2e", world)
    _write_webnlg(folder / "webnlg_challenge_2017", world)
    _write_dart(folder / "dart", world)
