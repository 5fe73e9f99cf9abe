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
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sharelora.plan.rule import SharingRule
from sharelora.plan.site import Site, matches
from sharelora.support.errors import UserError
from sharelora.support.text import columns

FORMAT = "sharelora-plan/1"
# Of the adapter's file: an element in fp32, and about a matrix's name, shape and place in the header.
FILE_BYTES, FILE_HEADER = 4, 150


@dataclass(frozen=True)
class Entry:
    """Which A, of shape (r, D_in), and which B, of shape (D_out, r), a site uses."""

    site: Site
    r: int
    a: str
    b: str

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the two matrices' names with their shapes."""
        return {self.a: (self.r, self.site.d_in), self.b: (self.site.d_out, self.r)}


def matrix_name(side: str, key: tuple[str, str], shape: tuple[int, int]) -> str:
    """Name a matrix after its side, its key (kind, layers) and its shape.

    The names hold `lora_A` or `lora_B`, so that rules of PEFT which look for these (LoRA+, freezing) apply, and no
    dot, which parameter names do not allow.
    """
    kind, layers = key
    return f"lora_{side}/{kind.replace('.', '/')}/{layers}/{shape[0]}x{shape[1]}"


@dataclass(frozen=True)
class SharingPlan:
    """All sites of a model with the matrices they use; consistent by construction.

    Raises:
        UserError: no sites, a site twice, a name that no matrix can have, one name for matrices of different shapes,
            or slices of a fused module with different ranks.
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
            _check_names(entry)
        self.matrices  # noqa: B018 - computing the shapes checks them
        for path, entries in self.by_path.items():
            ranks = [entry.r for entry in entries]
            if len(set(ranks)) > 1:
                raise UserError(
                    f"the slices of {path} have ranks {', '.join(map(str, ranks))}; they share one scaling, "
                    "so give them one rank"
                )

    @cached_property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Every matrix once: name -> shape."""
        found: dict[str, tuple[int, int]] = {}
        for entry in self.entries:
            for name, shape in entry.shapes().items():
                if found.setdefault(name, shape) != shape:
                    raise UserError(
                        f"matrix {name} would be {found[name]} for one site and {shape} for {entry.site.name}; "
                        "matrices can be shared only between equal shapes, so give them different names"
                    )
        return found

    @cached_property
    def users(self) -> dict[str, list[Site]]:
        """Every matrix once: name -> the sites that use it, in model order."""
        found: dict[str, list[Site]] = defaultdict(list)
        for entry in self.entries:
            found[entry.a].append(entry.site)
            found[entry.b].append(entry.site)
        return dict(found)

    @cached_property
    def by_path(self) -> dict[str, tuple[Entry, ...]]:
        """Module path -> its entries: one, or several for a fused module."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            found[entry.site.path].append(entry)
        return {path: tuple(entries) for path, entries in found.items()}

    @property
    def num_parameters(self) -> int:
        """Elements of all matrices, each counted once."""
        return sum(rows * cols for rows, cols in self.matrices.values())

    @property
    def num_unshared(self) -> int:
        """Elements that LoRA, with a pair of matrices per site, would have at the same ranks."""
        return sum(entry.r * (entry.site.d_in + entry.site.d_out) for entry in self.entries)

    @property
    def file_bytes(self) -> int:
        """Size of the adapter's file, which has each matrix once; a little more than it really is."""
        return FILE_BYTES * self.num_parameters + FILE_HEADER * len(self.matrices)

    @property
    def shares(self) -> bool:
        """Whether any matrix has more than one user."""
        return any(len(users) > 1 for users in self.users.values())

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that change with any site, shape or name."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON data that `from_json` reads back."""
        rows = [{**vars(entry.site), "r": entry.r, "a": entry.a, "b": entry.b} for entry in self.entries]
        return {"format": FORMAT, "sites": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SharingPlan:
        """Read back what `to_json` wrote.

        Raises:
            UserError: another format, or rows with missing fields.
        """
        found = data.get("format") if isinstance(data, Mapping) else type(data).__name__
        if found != FORMAT:
            raise UserError(f"plan has format {found!r}; need {FORMAT!r}; write it again with this version")
        try:
            entries = tuple(
                Entry(Site(**{f: row[f] for f in Site.__dataclass_fields__}), row["r"], row["a"], row["b"])
                for row in data["sites"]
            )
        except KeyError as error:
            raise UserError(
                f"plan has a site without {error}; every row needs the fields that 'plan' writes"
            ) from error
        except TypeError as error:
            raise UserError(
                "plan has no list of sites; every row needs the fields that 'plan' writes; write it again"
            ) from error
        return cls(entries)

    @classmethod
    def build(
        cls, sites: Sequence[Site], rule: SharingRule, r: int, rank_pattern: Mapping[str, int] | None = None
    ) -> SharingPlan:
        """Apply a rule to the sites of a model.

        Args:
            sites: what the model has (`sharelora.tuner.sites.find_sites`).
            rule: what is shared, for which modules, across what.
            r: rank of every site.
            rank_pattern: other ranks, module name -> rank; a module's whole path decides over a shorter name.

        Raises:
            UserError: a rank below 1, modules or layers that the model lacks, or a rule that shares nothing.
        """
        rule.check(sites)
        layers = rule.layer_labels(sites)
        entries = tuple(_entry(site, rule, layers, _rank(site, r, rank_pattern)) for site in sites)
        plan = cls(entries)
        plan.check_shared(rule)
        return plan

    def check_shared(self, rule: SharingRule) -> None:
        """Refuse a plan in which a side that the rule shares has no matrix with two users."""
        for side in rule.sides:
            if not any(len(users) > 1 for name, users in self.users.items() if name.startswith(f"lora_{side}/")):
                raise UserError(
                    f"share={rule.share!r} across {rule.across} shares no {side}: no two of the {len(self.entries)} "
                    f"sites have the same shape and key; choose other modules, groups or share='none'"
                )

    def table(self) -> str:
        """Return the plan as a readable table with counts and the saving against LoRA."""
        return render(self)


def _check_names(entry: Entry) -> None:
    for side, name in (("A", entry.a), ("B", entry.b)):
        if not str(name).startswith(f"lora_{side}/") or "." in name:
            raise UserError(
                f"{name!r} is no name for the {side} of {entry.site.name}; need lora_{side}/..., without dots"
            )


def _rank(site: Site, r: int, rank_pattern: Mapping[str, int] | None) -> int:
    pattern = rank_pattern or {}
    if site.path in pattern:
        r = pattern[site.path]
    else:
        r = next((rank for name, rank in pattern.items() if matches(site, name)), r)
    if r < 1:
        raise UserError(f"rank {r} for {site.name}; a rank is 1 or more; set lora_r")
    return r


def _entry(site: Site, rule: SharingRule, layers: Mapping[int, str], r: int) -> Entry:
    a = matrix_name("A", rule.key("A", site, layers), (r, site.d_in))
    b = matrix_name("B", rule.key("B", site, layers), (site.d_out, r))
    return Entry(site, r, a, b)


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
    saving = 1 - plan.num_parameters / plan.num_unshared
    total = (
        f"{plan.num_parameters:,} parameters in {len(plan.matrices)} matrices for {len(plan.entries)} sites; "
        f"LoRA has {plan.num_unshared:,} ({saving:.1%} fewer); plan {plan.hash}"
    )
    return "\n".join([*columns([HEADER, *_rows(plan)], left=4), total])
