"""The sharing plan: for each adapted site, the name of the A and the name of the B that it uses.

Equal names mean one matrix. LoRA, both ShareLoRA papers and everything between are different ways to choose the
names, so a plan is plain frozen data: it can be printed, counted, hashed, saved as JSON and checked before a model is
touched.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

from sharelora.plan.rule import ANY, OUTSIDE, SharingRule
from sharelora.plan.site import SHAPE, SIZE, Site, matches, owner
from sharelora.support.errors import UserError
from sharelora.support.reading import NAME, misfit
from sharelora.support.text import columns

FORMAT = "sharelora-plan/1"
# Bytes in the adapter's file: of an element in fp32, and roughly of a matrix's name, shape and offset in the header.
FILE_BYTES, FILE_HEADER = 4, 150
_SHAPE = {"sites": [{**SHAPE, "r": SIZE, "a": NAME, "b": NAME}]}
HEADER = ("matrix", "of", "layers", "shape", "copies", "sites each", "parameters")


@dataclass(frozen=True)
class Entry:
    """Which A and which B a site uses, of the shapes (r, D_in) and (D_out, r) unless it is a convolution."""

    site: Site
    r: int
    a: str
    b: str

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the two matrices' names with their shapes."""
        return dict(zip((self.a, self.b), self.site.shapes(self.r), strict=True))

    def with_rank(self, r: int) -> Entry:
        """Return the entry with another rank; names of matrices end in their shapes."""
        stems = (name.rpartition("/")[0] for name in (self.a, self.b))
        a, b = (f"{stem}/{shape_text(shape)}" for stem, shape in zip(stems, self.site.shapes(r), strict=True))
        return replace(self, r=r, a=a, b=b)


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as the names of matrices end in it: 8x128."""
    return "x".join(map(str, shape))


def matrix_name(side: str, key: tuple[str, str], shape: Sequence[int]) -> str:
    """Name a matrix after its side, its key (kind, layers) and its shape.

    The names hold `lora_A` or `lora_B`, by which PEFT finds the parameters to freeze and to give LoRA+ its rates, and
    no dot, which torch does not allow in the name of a parameter.
    """
    kind, layers = key
    return f"lora_{side}/{kind.replace('.', '/')}/{layers}/{shape_text(shape)}"


@dataclass(frozen=True)
class SharingPlan:
    """All adapted sites of a model with the matrices they use; consistent by construction.

    Raises:
        UserError: no sites, a site twice, an invalid name of a matrix, one name for matrices of different shapes, or
            parts of a fused module with different ranks, or a rank that the groups of a convolution do not divide.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise UserError("the plan has no sites; name modules that the model has with target_modules")
        names = [entry.site.name for entry in self.entries]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UserError(f"sites appear twice in the plan: {', '.join(twice[:3])}; list each once")
        for entry in self.entries:
            for side, name in (("A", entry.a), ("B", entry.b)):
                if not str(name).startswith(f"lora_{side}/") or "." in name:
                    raise UserError(
                        f"invalid name {name!r} for {side} of {entry.site.name}; need lora_{side}/..., without dots"
                    )
            if entry.r % entry.site.groups:
                raise UserError(
                    f"rank {entry.r} for {entry.site.name}, a convolution of {entry.site.groups} groups that each take "
                    "an equal part of it; choose a multiple, or leave the module out"
                )
        _ = self.matrices  # refuses a name that would mean two shapes
        for name, users in self.users.items():
            if len({site.embedding for site in users}) > 1:
                other = next(site.name for site in users if not site.embedding)
                raise UserError(
                    f"matrix {name} would be of an embedding and of {other}; "
                    "the A of an embedding starts at zero, that of other modules does not: give them different names"
                )
        for path, entries in self.by_path.items():
            ranks = [entry.r for entry in (*entries, *self.by_path[self.owner(path)])]
            if len(set(ranks)) > 1:
                what = f"the parts of {path}" if self.owner(path) == path else f"{path} and what holds it"
                raise UserError(
                    f"{what} have ranks {', '.join(map(str, dict.fromkeys(ranks)))}; they share one scaling, "
                    "so give them one rank"
                )

    @cached_property
    def matrices(self) -> dict[str, tuple[int, ...]]:
        """Every matrix once: name -> shape."""
        shapes: dict[str, tuple[int, ...]] = {}
        for entry in self.entries:
            for name, shape in entry.shapes().items():
                if shapes.setdefault(name, shape) != shape:
                    raise UserError(
                        f"matrix {name} would be {shapes[name]} for one site and {shape} for {entry.site.name}; "
                        "matrices can be shared only between equal shapes, so give them different names"
                    )
        return shapes

    @cached_property
    def users(self) -> dict[str, list[Site]]:
        """Every matrix once: name -> the sites that use it, in model order."""
        users: dict[str, list[Site]] = defaultdict(list)
        for entry in self.entries:
            users[entry.a].append(entry.site)
            users[entry.b].append(entry.site)
        return dict(users)

    @cached_property
    def by_path(self) -> dict[str, tuple[Entry, ...]]:
        """Module path -> its entries: one, or several for a fused module."""
        modules: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            modules[entry.site.path].append(entry)
        return {path: tuple(entries) for path, entries in modules.items()}

    def owner(self, path: str) -> str:
        """Return the module that is adapted for a path of the plan: its own, or the attention that it is inside of."""
        return owner(path, self.by_path)

    @property
    def num_parameters(self) -> int:
        """Elements of all matrices, each counted once."""
        return sum(map(prod, self.matrices.values()))

    @property
    def num_unshared(self) -> int:
        """Elements that LoRA, with a pair of matrices per site, would have at the same ranks."""
        return sum(prod(shape) for entry in self.entries for shape in entry.site.shapes(entry.r))

    @property
    def file_bytes(self) -> int:
        """Upper estimate of the size of the adapter's file, which has each matrix once."""
        return FILE_BYTES * self.num_parameters + FILE_HEADER * len(self.matrices)

    @property
    def shares(self) -> bool:
        """Whether any matrix has more than one user."""
        return any(len(users) > 1 for users in self.users.values())

    def difference(self, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        """Compare an adapter's matrices with those of the plan; return the difference in words, or None.

        Args:
            shapes: name of each of its matrices -> shape.
        """
        names = shapes.keys() | self.matrices.keys()
        wrong = sorted(name for name in names if shapes.get(name) != self.matrices.get(name))
        if not wrong:
            return None
        first, need = shapes.get(wrong[0], "none"), self.matrices.get(wrong[0], "none")
        return f"{len(wrong)} differ, first {wrong[0]}: found {first}, need {need}"

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that change with any site, shape or name."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON data that `from_json` reads back."""
        rows = [{**entry.site.to_json(), "r": entry.r, "a": entry.a, "b": entry.b} for entry in self.entries]
        return {"format": FORMAT, "sites": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SharingPlan:
        """Read back what `to_json` wrote.

        Raises:
            UserError: another format, or rows with missing fields.
        """
        version = data.get("format") if isinstance(data, Mapping) else type(data).__name__
        if version != FORMAT:
            raise UserError(f"the plan has format {version!r}; need {FORMAT!r}; write it again with this version")
        if fault := misfit(data, _SHAPE):
            raise UserError(
                f"the plan has {fault}; need every field that `sharelora plan --json` writes; write it again"
            )
        return cls(tuple(Entry(Site.from_json(row), row["r"], row["a"], row["b"]) for row in data["sites"]))

    @classmethod
    def build(
        cls, sites: Sequence[Site], rule: SharingRule, r: int, rank_pattern: Mapping[str, int] | None = None
    ) -> SharingPlan:
        """Apply a rule to the sites of a model.

        Args:
            sites: the adapted ones of the model (`sharelora.tuner.sites.find_sites`).
            rule: what is shared, for which modules, across what.
            r: rank of every site.
            rank_pattern: other ranks, module name -> rank; the full path of a module outranks a shorter name.

        Raises:
            UserError: a rank below 1, modules or layers that the model lacks, or a rule that shares nothing.
        """
        rule.check(sites)
        labels = rule.layer_labels(sites)
        entries = []
        for site in sites:
            rank = _rank(site, r, rank_pattern or {})
            names = (
                matrix_name(side, rule.key(side, site, labels), shape)
                for side, shape in zip("AB", site.shapes(rank), strict=True)
            )
            entries.append(Entry(site, rank, *names))
        plan = cls(tuple(entries))
        for side in rule.sides:
            if not any(len(users) > 1 for name, users in plan.users.items() if name.startswith(f"lora_{side}/")):
                raise UserError(
                    f"share={rule.share!r} across {rule.across} shares no {side}: no two of the {len(entries)} sites "
                    "have the same shape and key; choose other modules, groups or share='none'"
                )
        return plan

    def table(self) -> str:
        """Return a table with a line per kind of matrix, the total, and the saving against LoRA."""
        kinds: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for name in self.matrices:
            side, *kind, label, shape = name.split("/")
            layers = {ANY: "all", OUTSIDE: "-"}.get(label, "groups" if label.startswith("g") else "own")
            kinds[side, ".".join(kind), layers, shape].append(name)
        rows: list[tuple[str, ...]] = [HEADER]
        for key, names in sorted(kinds.items()):
            users = sorted({len(self.users[name]) for name in names})
            sites_each = str(users[0]) if len(users) == 1 else f"{users[0]} to {users[-1]}"
            elements = sum(prod(self.matrices[name]) for name in names)
            rows.append((*key, str(len(names)), sites_each, f"{elements:,}"))
        saving = 1 - self.num_parameters / self.num_unshared
        total = (
            f"{self.num_parameters:,} parameters in {len(self.matrices)} matrices for {len(self.entries)} sites; "
            f"LoRA has {self.num_unshared:,} ({saving:.1%} fewer); plan {self.hash}"
        )
        return "\n".join([*columns(rows, left=4), total])


def _rank(site: Site, r: int, rank_pattern: Mapping[str, int]) -> int:
    """Return the rank of a site: of its full path in the pattern, of the first name that means it, or `r`."""
    names = [site.path, *(name for name in rank_pattern if matches(site, name))]
    rank = next((rank_pattern[name] for name in names if name in rank_pattern), r)
    if rank < 1:
        raise UserError(f"rank {rank} for {site.name}; a rank is 1 or more; set lora_r")
    return rank
