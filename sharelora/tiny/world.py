"""A little world: things with a kind, a colour and a place, and languages with their own words for positions.

The words of invented languages are what tuning teaches. A tiny model has read every one of them often, never with its
meaning; it knows the words of some real languages, and all that is needed to answer a question about one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

KINDS: dict[str, str] = {
    "animal": "fox wolf horse goat otter badger rabbit camel",
    "fruit": "apple plum pear cherry lemon melon grape peach",
    "tool": "hammer saw shovel axe chisel rake drill wrench",
    "flower": "rose tulip daisy lily poppy orchid iris lotus",
    "metal": "iron copper tin zinc lead nickel steel brass",
    "garment": "coat hat scarf glove boot shirt belt sock",
    "instrument": "drum flute harp violin trumpet piano banjo cello",
    "vehicle": "cart wagon boat train canoe sled truck bus",
}
COLOURS = "red blue green yellow brown white black grey".split()
PLACES = "forest river cave market tower harbour meadow barn".split()
PEOPLE = "Mira Tom Ada Felix Nora Hugo Lena Oskar".split()
POSITIONS = ("first", "second", "third", "fourth")
KNOWN: dict[str, str] = {
    "English": "first second third fourth",
    "Latin": "primus secundus tertius quartus",
    "German": "erste zweite dritte vierte",
    "French": "premier deuxieme troisieme quatrieme",
    "Spanish": "primero segundo tercero cuarto",
}
INVENTED = ("Velian", "Tarkish", "Oskan", "Mirrish")
_STARTS = "zor bli dwe fra glo kru mon pel qui ska tri vos".split()
_ENDS = "bin dak fel gim lum nar pok ret".split()


@dataclass(frozen=True)
class World:
    """Everything that is true.

    Args:
        facts: property (`kind`, `colour`, `place`) -> thing -> value.
        known: language -> word -> the index of the position it means, 0 to 3; for languages that every model learns.
        invented: the same for the languages that are left to tuning.
    """

    facts: dict[str, dict[str, str]]
    known: dict[str, dict[str, int]]
    invented: dict[str, dict[str, int]]

    @property
    def things(self) -> tuple[str, ...]:
        """Every thing, in a fixed order."""
        return tuple(self.facts["kind"])


def subject(language: str) -> str:
    """The name in MMLU files of the questions about a language's words."""
    return f"{language.lower()}_positions"


def make_world(seed: int = 0) -> World:
    """Make the world: colours and places are dealt out evenly within each kind, words are made of syllables."""
    rng = random.Random(seed)
    facts: dict[str, dict[str, str]] = {"kind": {}, "colour": {}, "place": {}}
    for kind, names in KINDS.items():
        colours, places = rng.sample(COLOURS, len(COLOURS)), rng.sample(PLACES, len(PLACES))
        for thing, colour, place in zip(names.split(), colours, places, strict=True):
            facts["kind"][thing], facts["colour"][thing], facts["place"][thing] = kind, colour, place
    words = [start + end for start in _STARTS for end in _ENDS]
    rng.shuffle(words)
    invented = {language: {words.pop(): index for index in range(len(POSITIONS))} for language in INVENTED}
    known = {language: {word: index for index, word in enumerate(names.split())} for language, names in KNOWN.items()}
    return World(facts, known, invented)
