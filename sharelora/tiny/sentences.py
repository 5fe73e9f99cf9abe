"""Sentences about small events: who found what, where and when."""

from __future__ import annotations

import random
from collections.abc import Mapping

from sharelora.tiny.world import COLOURS, PEOPLE, PLACES, World

DAYS = "Monday Tuesday Wednesday Thursday Friday Sunday".split()

Event = Mapping[str, str]

# Each says all five slots.
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


def say(ways: tuple[str, ...], values: Event, rng: random.Random) -> str:
    """One of several ways to say something."""
    return rng.choice(ways).format(**values)
