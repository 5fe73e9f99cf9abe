"""From a budget to plans: which ways of sharing fit into so many parameters or bytes, and at which rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from sharelora.plan.plan import FILE_BYTES, FILE_HEADER, SharingPlan
from sharelora.plan.rule import ODD_EVEN, SharingRule
from sharelora.plan.site import Site, matches
from sharelora.support.errors import UserError
from sharelora.support.text import size

# A smaller rank is not worth more modules or matrices: the smallest that the papers use for them.
WORTHWHILE = 8
# Ways of sharing, named as flags say them behind --share: paper 1's, and paper 2's naive groups.
PAIRS = f"ab --share_groups {ODD_EVEN}"
RULES: Mapping[str, SharingRule] = {
    "none": SharingRule(),
    "a": SharingRule("a"),
    "b": SharingRule("b"),
    PAIRS: SharingRule("ab", groups=ODD_EVEN),
    "ab": SharingRule("ab"),
}
PREFERRED = ("a", PAIRS, "none", "b", "ab")
# What query and value are called, by architecture.
_QUERY_VALUE = (("q_proj", "v_proj"), ("query", "value"), ("query_proj", "value_proj"), ("q_lin", "v_lin"))
_ATTENTION = ("attn", "attention")


@dataclass(frozen=True)
class Fit:
    """A way of sharing with the largest rank that fits.

    Attributes:
        modules: name of the set of modules.
        sharing: name of the way of sharing.
        rank: 0 if even rank 1 is too much.
        unit: parameters at rank 1; every rank takes as many more.
        matrices: how many there are.
    """

    modules: str
    sharing: str
    rank: int
    unit: int
    matrices: int

    @property
    def parameters(self) -> int:
        """Parameters at this rank."""
        return self.rank * self.unit

    @property
    def bytes(self) -> int:
        """Size of the adapter's file at this rank."""
        return FILE_BYTES * self.parameters + FILE_HEADER * self.matrices


@dataclass(frozen=True)
class Budget:
    """What an adapter may have: parameters, or bytes of its file, or both.

    Raises:
        UserError: neither is given.
    """

    parameters: int | None = None
    file: int | None = None

    def __post_init__(self) -> None:
        if self.parameters is None and self.file is None:
            raise UserError("found no budget; need parameters or bytes; pass --max_params 5M or --max_file 20MB")

    def __str__(self) -> str:
        parts = [f"{self.parameters:,} parameters"] if self.parameters is not None else []
        parts += [f"a file of {size(self.file)}"] if self.file is not None else []
        return " and ".join(parts)

    def rank(self, unit: int, matrices: int) -> int:
        """Return the largest rank that fits.

        Args:
            unit: parameters at rank 1.
            matrices: how many there are.
        """
        limits = [self.parameters] if self.parameters is not None else []
        limits += [(self.file - FILE_HEADER * matrices) // FILE_BYTES] if self.file is not None else []
        return max(0, min(limits) // unit)


def module_sets(sites: Sequence[Site]) -> dict[str, list[Site]]:
    """Return the sets of modules that are usually adapted, of those that a model has: name -> sites.

    The names are as `--lora_modules` takes them.
    """
    kinds = {site.kind for site in sites}
    attention = [site for site in sites if any(word in site.kind for word in _ATTENTION)]
    sets = {"all": list(sites)}
    if 0 < len(attention) < len(sites):
        sets[",".join(sorted({site.kind.rpartition(".")[2] for site in attention}))] = attention
    for pair in _QUERY_VALUE:
        if all(any(kind.endswith(name) for kind in kinds) for name in pair):
            sets[",".join(pair)] = [site for site in sites if any(matches(site, name) for name in pair)]
    return sets


def fits(
    sets: Mapping[str, Sequence[Site]],
    budget: Budget,
    rules: Mapping[str, SharingRule] = RULES,
    rank: int | None = None,
) -> list[Fit]:
    """Find the largest rank of every way of sharing; where even rank 1 is too much, it is 0.

    Args:
        sets: sites by a name for them.
        budget: what there is.
        rules: ways of sharing by a name for them.
        rank: a rank that must fit; None looks for the largest.

    Returns:
        One for each set and rule that shares anything, in the order in which they are given.
    """
    found = []
    for (modules, sites), (sharing, rule) in product(sets.items(), rules.items()):
        plan = _at_rank_1(sites, rule)
        if plan is None:
            continue
        most = min(budget.rank(plan.num_parameters, len(plan.matrices)), _full_rank(sites))
        fitting = most if rank is None else rank if rank <= most else 0
        found.append(Fit(modules, sharing, fitting, plan.num_parameters, len(plan.matrices)))
    return found


def _at_rank_1(sites: Sequence[Site], rule: SharingRule) -> SharingPlan | None:
    try:
        return SharingPlan.build(sites, rule, 1)
    except UserError:
        return None  # it shares nothing among these modules


def _full_rank(sites: Sequence[Site]) -> int:
    """Beyond the smallest side of a module more rank adds nothing."""
    return min(min(site.d_in, site.d_out) for site in sites)


def recommend(found: Sequence[Fit]) -> tuple[Fit, str]:
    """Choose one of the plans that fit, and say why.

    ShareA comes first, the default of the first ShareLoRA paper. It and the others after it are in the order of their
    mean scores in docs/results/glue.md, where at about the same number of parameters ShareA and pairs of layers are
    ahead of LoRA at a smaller rank, and that of one A and B for all layers. Of one way of sharing the widest choice of
    modules is taken, since the same parameters do more in more modules at a smaller rank (LoRA, section 7.1), but for
    ranks below 8.

    Args:
        found: at least one with a rank.
    """
    sets = list(dict.fromkeys(fit.modules for fit in found))
    fitting = [fit for fit in found if fit.rank]
    worthwhile = [fit for fit in fitting if fit.rank >= WORTHWHILE]
    if not worthwhile:
        best = max(fitting, key=lambda fit: fit.rank)
        return best, f"no plan has a rank of {WORTHWHILE}; this one has the largest"
    best = min(worthwhile, key=lambda fit: (_place(fit.sharing), sets.index(fit.modules)))
    return best, (
        f"the first of share {', '.join(PREFERRED)} (docs/results/glue.md) that has a rank of {WORTHWHILE} or more, "
        "with the most modules for which that holds"
    )


def _place(sharing: str) -> int:
    return PREFERRED.index(sharing) if sharing in PREFERRED else 0


def render(found: Sequence[Fit], budget: Budget) -> str:
    """Return a table of the plans that fit, and the recommended one with the reason.

    Raises:
        UserError: none fits; the smallest is named.
    """
    fitting = [fit for fit in found if fit.rank]
    if not fitting:
        smallest = min(found, key=lambda fit: fit.unit)
        least = Fit(smallest.modules, smallest.sharing, 1, smallest.unit, smallest.matrices)
        raise UserError(
            f"found a budget of {budget}; the smallest plan, share {least.sharing} on {least.modules} at rank 1, has "
            f"{least.parameters:,} parameters in a file of {size(least.bytes)}; raise the budget"
        )
    rows = [("modules", "share", "largest rank", "parameters", "file"), *map(_cells, fitting)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    best, reason = recommend(fitting)
    left_out = len(found) - len(fitting)
    more = f"; {left_out} ways do not fit even at rank 1" if left_out else ""
    lines.append(f"{len(fitting)} ways fit into {budget}, each also with any smaller rank{more}")
    lines.append(f"recommended: {_flags(best)}: {reason}")
    return "\n".join(lines)


def _cells(fit: Fit) -> tuple[str, ...]:
    return (fit.modules, fit.sharing, str(fit.rank), f"{fit.parameters:,}", size(fit.bytes))


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if column < 2 else cell.rjust(width)


def _flags(fit: Fit) -> str:
    return f"--lora_modules {fit.modules} --share {fit.sharing} --lora_r {fit.rank}"
