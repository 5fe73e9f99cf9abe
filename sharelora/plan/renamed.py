"""A saved plan on a model whose modules have other paths than when it was made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from sharelora.plan.plan import Entry, SharingPlan
from sharelora.plan.site import Site
from sharelora.support.errors import UserError


def on_model(saved: SharingPlan, sites: Sequence[Site]) -> tuple[SharingPlan, dict[str, str]]:
    """Put a saved plan on the sites of a model, whatever stands in front of their paths.

    Libraries rename what holds the layers (`language_model.model.layers` became `model.language_model.layers`), and a
    model can be wrapped. A site is found again by its layer, its shapes and the end of its path.

    Args:
        saved: the plan.
        sites: of the model, at least those of the plan.

    Returns:
        The plan, with the names of its matrices and the kinds of its sites as saved, and where its modules are now:
        path in the saved plan -> path in the model.

    Raises:
        UserError: a site that the model lacks, or one that could be two.
    """
    modules: dict[str, list[Site]] = defaultdict(list)
    for site in sites:
        modules[site.path].append(site)
    similar: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for path, own in modules.items():
        similar[_likeness(own)].append(path)
    renamed: dict[str, str] = {}
    for path, entries in saved.by_path.items():
        own = [entry.site for entry in entries]
        if path in modules and _shapes(own) == _shapes(modules[path]):
            renamed[path] = path
            continue
        found = nearest_paths(path, similar[_likeness(own)])
        if not found:
            site = own[0]
            raise UserError(
                f"the adapter was made for another model: this one lacks, of its plan {saved.hash}, {site.name} "
                f"({site.d_in} to {site.d_out}); load its own base model"
            )
        if len(found) > 1:
            raise UserError(
                f"the adapter's {path} could be {found[0]} or {found[1]} of this model; need one of that shape; "
                "load the adapter's own base model"
            )
        renamed[path] = found[0]
    if len(set(renamed.values())) < len(renamed):
        twice = next(path for path in renamed.values() if list(renamed.values()).count(path) > 1)
        first, second = [path for path, now in renamed.items() if now == twice][:2]
        raise UserError(
            f"the adapter's {first} and {second} would both be {twice} of this model; load the adapter's own base model"
        )
    moved = (Entry(replace(e.site, path=renamed[e.site.path]), e.r, e.a, e.b) for e in saved.entries)
    return SharingPlan(tuple(moved)), renamed


def nearest_paths(path: str, others: Iterable[str]) -> list[str]:
    """Return the paths most like a given one: with the longest common end, then with most names in common.

    The end reaches over the last number, so that it has the kind of the module; without a number it is its name.

    Args:
        path: of a module.
        others: paths to choose from.

    Returns:
        One path, several that are equally like it, or none.
    """
    parts = path.split(".")
    least = next((i + 1 for i, part in enumerate(reversed(parts)) if i and part.isdigit()), 1)
    scores: dict[tuple[int, int], list[str]] = defaultdict(list)
    for other in others:
        theirs = other.split(".")
        pairs = zip(reversed(parts), reversed(theirs), strict=False)
        end = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(parts), len(theirs)))
        if end >= least:
            scores[end, len(set(parts[:-end]) & set(theirs[:-end]))].append(other)
    return scores[max(scores)] if scores else []


def rename(path: str, renamed: Mapping[str, str], others: Collection[str] = ()) -> str | None:
    """Return where something in a file is now, by its path there.

    Args:
        path: of a parameter; that of its module is its beginning.
        renamed: what `on_model` returned.
        others: paths of further modules of the model that have saved parameters, such as heads.

    Returns:
        The path in the model; None if several modules could be meant.
    """
    pieces = path.split(".")
    for end in range(len(pieces) - 1, 0, -1):
        module, rest = ".".join(pieces[:end]), ".".join(pieces[end:])
        if module in renamed:
            return f"{renamed[module]}.{rest}"
        if module in others:
            return path
    for end in range(len(pieces) - 1, 0, -1):
        module, rest = ".".join(pieces[:end]), ".".join(pieces[end:])
        if found := nearest_paths(module, others):
            return f"{found[0]}.{rest}" if len(found) == 1 else None
    return path


def _shapes(sites: Iterable[Site]) -> list[Site]:
    """Return the sites of a module without what depends on where it is."""
    return [replace(site, path="", kind="", layer=None) for site in sites]


def _likeness(sites: Sequence[Site]) -> tuple[object, ...]:
    return sites[0].path.rpartition(".")[2], sites[0].layer, *_shapes(sites)
