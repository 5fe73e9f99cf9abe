"""E2E, WebNLG 2017 and DART in small, in the forms and the layout of the official files.

Every input has several texts; no input of train is in dev or test. WebNLG's test set also has categories that its train
set lacks.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from sharelora.support.files import write_text
from sharelora.tiny.restaurants import OPENINGS, PROPERTIES, describe, restaurant, tell, triples
from sharelora.tiny.world import KINDS, World

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
            place = restaurant(world, rng)
            meaning = ", ".join(f"{name}[{value}]" for name, value in place.items())
        used.add(meaning)
        ways = rng.sample(range(len(OPENINGS)), rng.randint(2, len(OPENINGS)))
        yield from ((meaning, describe(place, way)) for way in ways)


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
    waiting = iter(rng.sample(found := _inputs(tuple(SEEN)), len(found)))
    return {split: list(itertools.islice(waiting, size)) for split, size in TRIPLE_SIZES.items()}


def _category(thing: str) -> str:
    return next(name for kind, name in {**SEEN, **UNSEEN}.items() if thing in KINDS[kind].split())


def _entry(world: World, number: int, given: Input) -> ElementTree.Element:
    thing, known = given
    entry = ElementTree.Element("entry", category=_category(thing), eid=f"Id{number}", size=str(len(known)))
    for name, child in (("originaltripleset", "otriple"), ("modifiedtripleset", "mtriple")):
        found = ElementTree.SubElement(entry, name)
        for triple in triples(world, thing, known):
            ElementTree.SubElement(found, child).text = " | ".join(triple)
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
        entries.extend(_entry(world, number, given) for number, given in enumerate(splits[split], 1))
        ElementTree.indent(root)
        write_text(folder / name, f"{_DECLARATION}\n{ElementTree.tostring(root, encoding='unicode')}\n")


def _write_dart(folder: Path, world: World) -> None:
    for split, found in dealt("dart").items():
        rows = [
            {
                "tripleset": [
                    [name, relation.upper(), value] for name, relation, value in triples(world, thing, known)
                ],
                "subtree_was_extended": False,
                "annotations": [{"source": "tiny", "text": tell(world, thing, known, way)} for way in WAYS],
            }
            for thing, known in found
        ]
        write_text(folder / f"dart-v1.1.1-full-{split}.json", json.dumps(rows, indent=1) + "\n")


def write_nlg(folder: Path, world: World) -> None:
    """Write every data set below a folder."""
    _write_e2e(folder / "e2e", world)
    _write_webnlg(folder / "webnlg_challenge_2017", world)
    _write_dart(folder / "dart", world)
