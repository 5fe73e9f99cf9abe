"""Which sites of a LoRA have to agree on matrices and ranks, and what they agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharelora.checkpoint.fitting import fit, make_cells, spaces
from sharelora.checkpoint.given import Given
from sharelora.checkpoint.sizes import Size
from sharelora.plan import Entry, SharingPlan


@dataclass(frozen=True)
class Shared:
    """Matrices that some sites share.

    Attributes:
        entries: the sites with the names of their new matrices.
        bank: matrix name -> tensor in fp32.
        spectra: matrix name -> singular values of the joint changes of its sites; empty if nothing was fitted.
    """

    entries: tuple[Entry, ...]
    bank: dict[str, Tensor]
    spectra: dict[str, list[float]]


def with_rank(entry: Entry, rank: int) -> Entry:
    """Return an entry with another rank; names of matrices end in their shapes."""
    stem_a, stem_b = entry.a.rpartition("/")[0], entry.b.rpartition("/")[0]
    return replace(entry, r=rank, a=f"{stem_a}/{rank}x{entry.site.d_in}", b=f"{stem_b}/{entry.site.d_out}x{rank}")


def connected(entries: Sequence[Entry], keys: Callable[[Entry], Sequence[str]]) -> list[list[Entry]]:
    """Group entries that have a key in common, directly or through others, each group in the order given."""
    groups: list[tuple[set[str], list[int]]] = []
    for index, entry in enumerate(entries):
        own, members = set(keys(entry)), [index]
        for group in [group for group in groups if group[0] & own]:
            groups.remove(group)
            own, members = own | group[0], members + group[1]
        groups.append((own, members))
    return [[entries[index] for index in sorted(members)] for _, members in groups]


def _agreed(entries: Sequence[Entry], given: Given, size: Size) -> Shared | None:
    """Return the source's matrices if their users already agree and they may stay; those of one site always may.

    Returns:
        None if something has to change.
    """
    new = tuple(with_rank(entry, given.rank(entry.site)) for entry in entries)
    bank: dict[str, Tensor] = {}
    for entry in new:
        pair = given.pairs[entry.site.name]
        if not all(torch.equal(bank.setdefault(name, m), m) for name, m in zip((entry.a, entry.b), pair, strict=True)):
            return None
    ranks = {entry.r for entry in new}
    alone = all(len({getattr(entry, side) for entry in entries}) == len(entries) for side in "ab")
    if not alone and not (len(ranks) == 1 and size.keeps(ranks.pop())):
        return None
    return Shared(new, {name: matrix.float().contiguous() for name, matrix in bank.items()}, {})


def _where(entries: Sequence[Entry]) -> str:
    kinds = list(dict.fromkeys(entry.site.kind for entry in entries))
    return f"{', '.join(kinds[:3])}{', ...' if len(kinds) > 3 else ''} ({len(entries)} sites)"


def _balance(matrices: dict[str, Tensor], entries: Sequence[Entry], given: Given) -> dict[str, Tensor]:
    """Give the As the size that those of the source had, and the Bs the inverse.

    The product stays; but how fast further training moves A and B depends on how large they are.
    """
    before = torch.cat([given.pairs[entry.site.name][0].double().flatten() for entry in entries])
    names = {entry.a for entry in entries}
    after = torch.cat([matrices[name].flatten() for name in names])
    factor = float(before.square().mean().sqrt() / after.square().mean().sqrt()) or 1.0
    return {name: matrix * factor if name in names else matrix / factor for name, matrix in matrices.items()}


def _fitted(entries: Sequence[Entry], given: Given, size: Size) -> Shared:
    """Fit the matrices of sites that must have one rank."""
    parts = connected(entries, lambda entry: (entry.a, entry.b))
    cells = [make_cells((e.a, e.b, given.weight(e.site), given.product(e.site)) for e in part) for part in parts]
    found = [spaces(part) for part in cells]
    rank = size.choose([space for part in found for space in part.values()], _where(entries))
    bank: dict[str, Tensor] = {}
    for part, own_cells, own_spaces in zip(parts, cells, found, strict=True):
        bank |= _balance(fit(own_cells, own_spaces, rank), part, given)
    new = tuple(with_rank(entry, rank) for entry in entries)
    names = {old.a: entry.a for old, entry in zip(entries, new, strict=True)}
    names |= {old.b: entry.b for old, entry in zip(entries, new, strict=True)}
    return Shared(
        new,
        {names[name]: matrix.float().contiguous() for name, matrix in bank.items()},
        {names[name]: space.values.tolist() for part in found for name, space in part.items()},
    )


def share(given: Given, target: SharingPlan, size: Size) -> Shared:
    """Return the matrices of all sites.

    Args:
        given: the LoRA.
        target: a plan of rank 1 whose names say who shares.
        size: which rank.

    Raises:
        UserError: a rank above that of the data.
    """
    # The slices of a fused module have one scaling and so one rank.
    groups = connected(target.entries, lambda entry: (entry.a, entry.b, entry.site.path))
    done = [_agreed(entries, given, size) or _fitted(entries, given, size) for entries in groups]
    by_site = {entry.site.name: entry for one in done for entry in one.entries}
    return Shared(
        tuple(by_site[entry.site.name] for entry in target.entries),
        {name: matrix for one in done for name, matrix in one.bank.items()},
        {name: values for one in done for name, values in one.spectra.items()},
    )
