"""A fair sample of a test."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sharelora.support.errors import UserError


def spread(groups: Sequence[str], count: int | None, seed: int = 0) -> list[int]:
    """Choose a sample that is spread evenly over the groups and depends on the seed alone.

    Groups in a random order each give one random item in turn; a longer sample contains every shorter one.

    Args:
        groups: the group of each item.
        count: how many to choose; None, or more than there are, takes all.
        seed: of the choice.

    Returns:
        The places of the chosen ones, in order.

    Raises:
        UserError: none is asked for.
    """
    if count is not None and count < 1:
        raise UserError(f"found a limit of {count} questions; need at least 1; leave it out to ask all")
    if count is None or count >= len(groups):
        return list(range(len(groups)))
    rng = random.Random(seed)
    places: dict[str, list[int]] = {}
    for index in rng.sample(range(len(groups)), len(groups)):
        places.setdefault(groups[index], []).append(index)
    names = sorted(places)
    rng.shuffle(names)
    turns = ((turn, place, places[name]) for place, name in enumerate(names) for turn in range(count))
    ranked = sorted((turn, place, mine[turn]) for turn, place, mine in turns if turn < len(mine))
    return sorted(index for _, _, index in ranked[:count])
