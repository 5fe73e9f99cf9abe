"""A plan as text for people."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sharelora.plan import SharingPlan

HEADER = ("matrix", "of", "layers", "shape", "copies", "sites each", "parameters")


def _describe(layers: str) -> str:
    return {"*": "all", "-": "-"}.get(layers, "groups" if layers.startswith("g") else "own")


def _rows(plan: SharingPlan) -> list[tuple[str, ...]]:
    kinds: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in plan.matrices:
        side, *kind, layers, shape = name.split("/")
        kinds[side, ".".join(kind), _describe(layers), shape].append(name)
    return [(*key, *_numbers(plan, names)) for key, names in sorted(kinds.items())]


def _numbers(plan: SharingPlan, names: list[str]) -> tuple[str, str, str]:
    users = sorted({len(plan.users[name]) for name in names})
    each = str(users[0]) if len(users) == 1 else f"{users[0]} to {users[-1]}"
    elements = sum(plan.matrices[name][0] * plan.matrices[name][1] for name in names)
    return str(len(names)), each, f"{elements:,}"


def render(plan: SharingPlan) -> str:
    """Return a table with a line per kind of matrix, the total, and the saving against LoRA."""
    rows = [HEADER, *_rows(plan)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(_cell(i, cell, widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]
    saving = 1 - plan.num_parameters / plan.num_unshared
    total = (
        f"{plan.num_parameters:,} parameters in {len(plan.matrices)} matrices for {len(plan.entries)} sites; "
        f"LoRA has {plan.num_unshared:,} ({saving:.1%} fewer); plan {plan.hash}"
    )
    return "\n".join([*lines, total])


def _cell(column: int, text: str, width: int) -> str:
    return text.ljust(width) if column < 4 else text.rjust(width)
