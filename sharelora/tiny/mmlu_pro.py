"""MMLU-Pro in small: which of three to ten things has a property."""

from __future__ import annotations

import random
from collections.abc import Iterator

from sharelora.data.questions import LETTERS
from sharelora.tiny.world import World

# Property -> its category, and how it is asked for.
CATEGORIES = {
    "kind": ("kinds", "Which of these is a kind of {}?"),
    "colour": ("colours", "Which of these is {}?"),
    "place": ("places", "Which of these is found in the {}?"),
}
# Questions per category in each split; five are what five-shot prompts need.
SIZES = {"validation": 5, "test": 40}
FEWEST = 3


def mmlu_pro_rows(world: World, split: str) -> Iterator[dict[str, object]]:
    """Questions as rows of MMLU-Pro's files; one option alone has the property.

    Args:
        world: what they are about.
        split: `validation` or `test`.
    """
    rng = random.Random(f"mmlu_pro {split}")
    first = sum(size for name, size in SIZES.items() if name < split) * len(CATEGORIES)
    for place, (name, (category, text)) in enumerate(CATEGORIES.items()):
        for number in range(SIZES[split]):
            count = FEWEST + number % (len(LETTERS) - FEWEST + 1)
            things, answer = _options(world, rng, name, count)
            yield {
                "question_id": first + place * SIZES[split] + number,
                "question": text.format(world.facts[name][things[answer]]),
                "options": things,
                "answer": LETTERS[answer],
                "answer_index": answer,
                "category": category,
                "src": "tiny",
            }


def _options(world: World, rng: random.Random, name: str, count: int) -> tuple[list[str], int]:
    """Some things, and the place of the only one that has its value of a property."""
    known = world.facts[name]
    right = rng.choice(world.things)
    others = [thing for thing in world.things if known[thing] != known[right]]
    answer = rng.randrange(count)
    things = rng.sample(others, count - 1)
    return [*things[:answer], right, *things[answer:]], answer
