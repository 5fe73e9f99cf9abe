"""A plain LoRA per site: what is to be compressed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharelora.checkpoint.factors import Product
from sharelora.checkpoint.importing import Enable, matrices_by_site, source_ranks
from sharelora.checkpoint.opening import Opened
from sharelora.errors import UserError
from sharelora.plan import SharingPlan, Site
from sharelora.rules import SharingRule
from sharelora.sites import sites_of


@dataclass(frozen=True)
class Given:
    """The LoRA to be compressed, per site.

    Attributes:
        plan: its sites and ranks, nothing shared.
        pairs: site's name -> A and B.
        scalings: module path -> the factor of B A.
    """

    plan: SharingPlan
    pairs: dict[str, tuple[Tensor, Tensor]]
    scalings: dict[str, float]

    def rank(self, site: Site) -> int:
        """Return the rank of a site."""
        return self.pairs[site.name][0].shape[0]

    def weight(self, site: Site) -> float:
        """Return what a site's squared error counts: its scaling squared."""
        return self.scalings[site.path] ** 2

    def product(self, site: Site) -> Product:
        """Return a site's B A in fp64, without its scaling."""
        a, b = self.pairs[site.name]
        return Product(b.double(), a.double())


def read_given(opened: Opened, enable: Enable) -> Given:
    """Cut a LoRA into its sites.

    Raises:
        UserError: it is of another model, or every change is zero.
    """
    source = opened.source
    modules = [(path, module) for path, module in opened.model.named_modules() if path in source.pairs]
    strange = sorted(source.pairs.keys() - dict(modules).keys())
    if strange:
        raise UserError(
            f"{len(strange)} modules are only in the source, first {strange[0]}; give the source's own --base"
        )
    ranks = source_ranks(source, enable)
    plan = SharingPlan.build(sites_of(modules, enable), SharingRule(), r=1, rank_pattern=ranks)
    pairs = matrices_by_site(source, plan)
    if not any(bool(a.any()) and bool(b.any()) for a, b in pairs.values()):
        raise UserError(f"{source.name} changes nothing: every B A is zero; need a trained adapter; train it first")
    return Given(plan, pairs, source.scalings)
