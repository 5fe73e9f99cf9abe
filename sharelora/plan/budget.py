"""Plans within a budget: which ways of sharing fit into so many parameters or bytes, and at which rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import lcm, prod

from sharelora.plan.plan import FILE_BYTES, FILE_HEADER, SharingPlan
from sharelora.plan.rule import ODD_EVEN, SharingRule
from sharelora.plan.site import Site, matches
from sharelora.support.errors import UserError
from sharelora.support.text import columns, size

# The smallest rank that the papers use: more modules or matrices are not worth going below it.
WORTHWHILE = 8
# Ways of sharing, named as on the command line after --share: those of paper 1, and the naive groups of paper 2.
PAIRS = f"ab --share_groups {ODD_EVEN}"
RULES: Mapping[str, SharingRule] = {
    "none": SharingRule(),
    "a": SharingRule("a"),
    "b": SharingRule("b"),
    PAIRS: SharingRule("ab", groups=ODD_EVEN),
    "ab": SharingRule("ab"),
}
PREFERRED = ("a", PAIRS, "none", "b", "ab")
# Names of query and value, by architecture.
_QUERY_VALUE = (("q_proj", "v_proj"), ("query", "value"), ("query_proj", "value_proj"), ("q_lin", "v_lin"))
_ATTENTION = ("attn", "attention")


@dataclass(frozen=True)
class Fit:
    """A way of sharing with the largest rank that fits.

    Attributes:
        modules: name of the set of modules.
        sharing: name of the way of sharing.
        rank: 0 if not even the smallest fits.
        unit: parameters at rank 1; each further rank adds as many.
        matrices: their number.
        step: the smallest rank, of which every rank is a multiple; above 1 for convolutions in groups.
    """

    modules: str
    sharing: str
    rank: int
    unit: int
    matrices: int
    step: int = 1

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
    """How large an adapter may be.

    Attributes:
        parameters: at most so many; None for no limit.
        file: bytes of its file at most; None for no limit.

    Raises:
        UserError: neither limit is given.
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
        """Return the largest rank that fits, 0 if none does.

        Args:
            unit: parameters at rank 1.
            matrices: their number.
        """
        limits = [self.parameters] if self.parameters is not None else []
        limits += [(self.file - FILE_HEADER * matrices) // FILE_BYTES] if self.file is not None else []
        return max(0, min(limits) // unit)


def module_sets(sites: Sequence[Site]) -> dict[str, list[Site]]:
    """Return the usual choices of adapted modules, as far as a model has them: value of `--lora_modules` -> sites.

    They are all modules, those of attention, and query and value.
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
    """Find the largest rank of every way of sharing; 0 where not even rank 1 fits.

    Args:
        sets: name of a choice of modules -> sites.
        budget: how large the adapter may be.
        rules: name of a way of sharing -> rule.
        rank: the only rank to try; None looks for the largest.

    Returns:
        One for each set and each rule that shares anything in it, in the order of the arguments.
    """
    candidates = []
    for (modules, sites), (sharing, rule) in product(sets.items(), rules.items()):
        # The groups of a convolution take equal parts of its rank.
        step = lcm(*(site.groups for site in sites))
        try:
            plan = SharingPlan.build(sites, rule, step)
        except UserError:
            continue  # it shares nothing among these modules
        # Beyond the smaller side of a module more rank adds nothing.
        full_rank = min(min(site.d_in * prod(site.kernel), site.d_out) for site in sites)
        unit = plan.num_parameters // step
        largest = min(budget.rank(unit, len(plan.matrices)), full_rank) // step * step
        fitting = largest if rank is None else rank if rank <= largest and rank % step == 0 else 0
        candidates.append(Fit(modules, sharing, fitting, unit, len(plan.matrices), step))
    return candidates


def recommend(candidates: Sequence[Fit]) -> tuple[Fit, str]:
    """Choose one of the plans that fit, and say why.

    ShareA comes first, the default of the first ShareLoRA paper; then the other ways in the order of their mean scores
    in docs/results/glue.md: at about the same number of parameters ShareA and pairs of layers are ahead of LoRA at a
    smaller rank, and LoRA is ahead of one A and B for all layers. Within a way of sharing the widest choice of modules
    with a rank of 8 or more is taken, since the same parameters do more in more modules at a smaller rank (LoRA,
    section 7.1).

    Args:
        candidates: at least one with a rank.
    """
    fitting = [fit for fit in candidates if fit.rank]
    worthwhile = [fit for fit in fitting if fit.rank >= WORTHWHILE]
    if not worthwhile:
        best = max(fitting, key=lambda fit: fit.rank)
        return best, f"no plan has a rank of {WORTHWHILE}; this one has the largest"
    # A rule of the user's own is the only one there is. The widest set of modules is listed first.
    order = {sharing: index for index, sharing in enumerate(PREFERRED)}
    sets = list(dict.fromkeys(fit.modules for fit in candidates))
    best = min(worthwhile, key=lambda fit: (order.get(fit.sharing, 0), sets.index(fit.modules)))
    return best, (
        f"the first of share {', '.join(PREFERRED)} (docs/results/glue.md) that has a rank of {WORTHWHILE} or more, "
        "with the most modules for which that holds"
    )


def render(candidates: Sequence[Fit], budget: Budget) -> str:
    """Return a table of the plans that fit, and the recommended one with the reason.

    Raises:
        UserError: none fits; the message names the smallest.
    """
    fitting = [fit for fit in candidates if fit.rank]
    if not fitting:
        least = min(candidates, key=lambda fit: fit.unit * fit.step)
        smallest = replace(least, rank=least.step)
        raise UserError(
            f"found a budget of {budget}; the smallest plan, share {smallest.sharing} on {smallest.modules} at rank "
            f"{smallest.rank}, has {smallest.parameters:,} parameters in a file of {size(smallest.bytes)}; "
            "raise the budget"
        )
    rows = [("modules", "share", "largest rank", "parameters", "file")]
    rows += [(fit.modules, fit.sharing, str(fit.rank), f"{fit.parameters:,}", size(fit.bytes)) for fit in fitting]
    too_large = len(candidates) - len(fitting)
    others = f"; {too_large} ways do not fit at any rank" if too_large else ""
    best, reason = recommend(fitting)
    flags = f"--lora_modules {best.modules} --share {best.sharing} --lora_r {best.rank}"
    return "\n".join(
        [
            *columns(rows, left=2),
            f"{len(fitting)} ways fit into {budget}, each also with any smaller rank{others}",
            f"recommended: {flags}: {reason}",
        ]
    )
