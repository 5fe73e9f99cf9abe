"""The sharing rule: four fields that span every method of both papers and decide who shares a matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharelora.plan.site import Site, matches
from sharelora.support.errors import UserError
from sharelora.support.text import nearest

ANY = "*"  # in a key: any kind, or any layer
OUTSIDE = "-"  # in a key: the layer of a module outside the layers
ODD_EVEN = "odd_even"

SIDES: Mapping[str, tuple[str, ...]] = {"none": (), "a": ("A",), "b": ("B",), "ab": ("A", "B")}


@dataclass(frozen=True)
class Across:
    """What a shared matrix forgets about its users: their layer, their kind, or both."""

    forgets_kind: bool
    forgets_layer: bool


ACROSS: Mapping[str, Across] = {
    "layers": Across(forgets_kind=False, forgets_layer=True),
    "modules": Across(forgets_kind=True, forgets_layer=False),
    "both": Across(forgets_kind=True, forgets_layer=True),
}


@dataclass(frozen=True)
class SharingRule:
    """What is shared, for which modules, across what, within which groups of layers.

    Attributes:
        share: `none` (LoRA), `a`, `b` or `ab`.
        modules: names of the modules that share; the others get their own matrices. None means all.
        across: `layers` (one matrix per kind, paper 1), `modules` (one per layer for its modules: tied qkv), `both`.
        groups: layers that share among themselves only (paper 2); layers in no group keep their own matrices.
            `odd_even` means (0, 1), (2, 3), ... None means one group of all layers.

    Raises:
        UserError: an unknown value, overlapping groups or fields that contradict each other.
    """

    share: str = "none"
    modules: tuple[str, ...] | None = None
    across: str = "layers"
    groups: tuple[tuple[int, ...], ...] | str | None = None

    def __post_init__(self) -> None:
        _one_of("share", self.share, SIDES)
        _one_of("share_across", self.across, ACROSS)
        if isinstance(self.groups, str):
            _one_of("share_groups", self.groups, [ODD_EVEN])
        elif self.groups is not None:
            _check_disjoint(self.groups)
        if self.share == "none" and (self.modules is not None or self.groups is not None):
            raise UserError(
                "share='none' shares nothing, yet share_modules or share_groups is given; set share to a, b or ab"
            )
        if self.groups is not None and not ACROSS[self.across].forgets_layer:
            raise UserError(
                f"share_groups groups layers, but share_across={self.across!r} "
                "keeps each layer apart; use 'layers' or 'both'"
            )

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that are shared: some of A and B."""
        return SIDES[self.share]

    def check(self, sites: Sequence[Site]) -> None:
        """Compare the rule with what the model has.

        Raises:
            UserError: modules or layers that no site has.
        """
        for name in self.modules or ():
            if not any(matches(site, name) for site in sites):
                kinds = sorted({site.kind for site in sites})
                raise UserError(
                    f"share_modules names {name!r}, which is not adapted; the adapted modules are {', '.join(kinds)}"
                )
        adapted = {site.layer for site in sites if site.layer is not None}
        groups = self.groups if isinstance(self.groups, tuple) else ()
        missing = sorted({layer for group in groups for layer in group} - adapted)
        if missing:
            extent = f"{min(adapted)} to {max(adapted)}" if adapted else "none"
            raise UserError(f"share_groups names layers {missing}; the adapted layers are {extent}")

    def layer_labels(self, sites: Iterable[Site]) -> dict[int, str]:
        """Return the label that shared matrices carry for each layer: `*`, `g0`, ... or the layer's own number."""
        layers = _layers(sites)
        if self.groups is None:
            return dict.fromkeys(layers, ANY)
        labels = {layer: f"g{index}" for index, group in enumerate(self.groups_of(sites)) for layer in group}
        return {layer: labels.get(layer, str(layer)) for layer in layers}

    def groups_of(self, sites: Iterable[Site]) -> tuple[tuple[int, ...], ...]:
        """Return the groups of layers that share among themselves, () without any; `odd_even` as pairs of layers."""
        if not isinstance(self.groups, str):
            return self.groups or ()
        layers = _layers(sites)
        return tuple(tuple(layers[i : i + 2]) for i in range(0, len(layers), 2))

    def key(self, side: str, site: Site, labels: Mapping[int, str]) -> tuple[str, str]:
        """Return the key of a site's matrix: equal keys (and shapes) mean one matrix.

        Args:
            side: A or B.
            site: the user of the matrix.
            labels: what `layer_labels` returned.
        """
        if site.layer is None:
            return site.kind, OUTSIDE
        shared = side in self.sides and (self.modules is None or any(matches(site, name) for name in self.modules))
        if not shared:
            return site.kind, str(site.layer)
        across = ACROSS[self.across]
        # What an embedding's A starts at, and whose rows its tokens choose, is unlike any other module's.
        kind = ANY if across.forgets_kind and not site.embedding else site.kind
        return kind, labels[site.layer] if across.forgets_layer else str(site.layer)


def _layers(sites: Iterable[Site]) -> list[int]:
    return sorted({site.layer for site in sites if site.layer is not None})


def _one_of(field: str, value: str, allowed: Iterable[str]) -> None:
    allowed = list(allowed)
    if value not in allowed:
        near = nearest(str(value), allowed)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{field}={value!r} is unknown; need one of {', '.join(allowed)}{hint}")


def _check_disjoint(groups: tuple[tuple[int, ...], ...]) -> None:
    group_of: dict[int, int] = {}
    for index, group in enumerate(groups):
        if len(set(group)) < 2:
            raise UserError(f"share_groups: group {index} is {list(group)}; a group needs at least two layers")
        for layer in group:
            if group_of.setdefault(layer, index) != index:
                raise UserError(
                    f"share_groups: layer {layer} is in groups {group_of[layer]} and {index}; groups must not overlap"
                )


def rule_fields(rule: SharingRule) -> dict[str, Any]:
    """Return a rule as fields of `ShareLoraConfig`."""
    groups = [list(group) for group in rule.groups] if isinstance(rule.groups, tuple) else rule.groups
    modules = None if rule.modules is None else list(rule.modules)
    return {"share": rule.share, "share_modules": modules, "share_across": rule.across, "share_groups": groups}
