"""An adapter's settings, parsed once from the flags: which modules, what rank, what is shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sharelora.flags.grouping import MeasuredGroups
from sharelora.layer_groups.grouping import EXPANSIONS, NONE, Grouping, expanded_rank
from sharelora.layer_groups.similarity import Similarity
from sharelora.plan.plan import SharingPlan
from sharelora.plan.rows import plan_from_rows
from sharelora.plan.rule import SharingRule, rule_fields
from sharelora.plan.site import Site
from sharelora.support.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from sharelora.tuner.config import ShareLoraConfig

# Imports inside the methods load torch and PEFT: a parser must not wait for them.

# Flags and the fields of an adapter's configuration that say the same.
SAME = {
    "lora_modules": "target_modules",
    "lora_r": "r",
    **{name: name for name in ("lora_alpha", "lora_dropout", "share_dropout_mask", "use_rslora", "use_dora")},
    **{name: name for name in ("enable_lora", "share", "share_modules", "share_across", "share_groups")},
}


@dataclass(frozen=True)
class AdapterSettings:
    """Everything that the command line says about an adapter.

    Attributes:
        modules: as PEFT's `target_modules` takes them; None until the architecture's own are known (`with_modules`).
        r: rank of every adapted layer, before groups of layers expand it (`rank_for`).
        alpha: the adapter is scaled by alpha / r.
        dropout: of the adapter's input.
        share_dropout_mask: whether modules that read the same input drop the same of its numbers.
        use_rslora: divide alpha by sqrt(r) instead.
        use_dora: train DoRA's magnitudes too.
        enabled: fused module -> which of its parts are adapted.
        sharing: the rule, or a hand-written plan as data (`sharelora.plan.rows`).
        measured: the measurement that the rule's groups come from, if any.
        expansion: formula by which the rank grows with groups; see `layer_groups.grouping.expanded_rank`.
        made: the plan of a saved adapter: of its own sites, whose names may be older than the model's.

    Raises:
        UserError: an unknown formula, or one without groups.
    """

    modules: str | Sequence[str] | None
    r: int
    alpha: float
    dropout: float
    share_dropout_mask: bool
    use_rslora: bool
    use_dora: bool
    enabled: Mapping[str, Sequence[bool]] | None
    sharing: SharingRule | Mapping[str, Any]
    measured: MeasuredGroups | None = None
    expansion: str = NONE
    made: SharingPlan | None = None

    def __post_init__(self) -> None:
        if self.expansion not in EXPANSIONS:
            raise UserError(
                f"found expand_rank {self.expansion!r}; need one of {', '.join(EXPANSIONS)}; change --expand_rank"
            )
        if self.expansion != NONE and (self.rule is None or self.rule.groups is None):
            raise UserError(
                f"found --expand_rank {self.expansion} without groups of layers; they leave room for a larger rank; "
                "pass --share_groups, or drop it"
            )

    @classmethod
    def saved(cls, config: Mapping[str, Any]) -> AdapterSettings:
        """Return the settings of an adapter from its adapter_config.json: one of this project, or a LoRA of PEFT."""
        plan = config.get("plan")
        return cls(
            modules=config.get("target_modules"),
            r=config["r"],
            alpha=config["lora_alpha"],
            dropout=config.get("lora_dropout") or 0.0,
            share_dropout_mask=bool(config.get("share_dropout_mask")),
            use_rslora=bool(config.get("use_rslora")),
            use_dora=bool(config.get("use_dora")),
            enabled=config.get("enable_lora"),
            sharing=plan or SharingRule(),
            made=SharingPlan.from_json(plan) if plan else None,
        )

    @property
    def rule(self) -> SharingRule | None:
        """The rule; None if a plan says what is shared."""
        return self.sharing if isinstance(self.sharing, SharingRule) else None

    @property
    def shares(self) -> bool:
        """Whether matrices may be shared at all: false for LoRA."""
        return self.rule is None or self.rule.share != "none"

    def rank_for(self, sites: Sequence[Site]) -> int:
        """Return the rank: `r`, or the larger one that groups of the sites' layers leave room for.

        Raises:
            UserError: the groups are still to be measured.
        """
        if self.measured is not None:
            return expanded_rank(self.measured.grouping, self.r, self.expansion)
        if self.expansion == NONE:
            return self.r
        assert self.rule is not None, "checked above"
        self.rule.check(sites)
        members = tuple(group for group in self.rule.groups_of(sites) if len(group) > 1)
        return expanded_rank(Grouping(len({s.layer for s in sites} - {None}), members, ()), self.r, self.expansion)

    def sites(self, model: nn.Module) -> list[Site]:
        """Return what is adapted in a model, which may be on the meta device.

        Raises:
            UserError: modules or parts that the model does not have.
        """
        from sharelora.tuner.sites import find_sites

        assert self.modules is not None, "with_modules() first: they depend on the architecture"
        if any(parameter.dim() > 2 for parameter in model.parameters()):
            from sharelora.tuner.experts import refuse_experts  # loads PEFT

            refuse_experts(model, self.modules)
        return find_sites(model, self.modules, self.enabled)

    def plan(self, model: nn.Module) -> SharingPlan:
        """Return the plan on a model, which may be on the meta device.

        Raises:
            UserError: settings that do not fit the model, or groups that are still to be measured.
        """
        if self.made is not None:
            return self.made
        self.check(model)
        return self.plan_of(self.sites(model))

    def check(self, model: nn.Module) -> None:
        """Make sure that the measured groups, if any, are of this model.

        Raises:
            UserError: they are of another.
        """
        if self.measured is not None:
            self.measured.check(getattr(model, "config", None))

    def plan_of(self, sites: list[Site]) -> SharingPlan:
        """Return the plan of sites.

        Raises:
            UserError: settings that do not fit them, or groups that are still to be measured.
        """
        if isinstance(self.sharing, SharingRule):
            return SharingPlan.build(sites, self.sharing, self.rank_for(sites))
        return plan_from_rows(self.sharing, sites, self.r)

    def config(self, model: nn.Module, **options: Any) -> ShareLoraConfig:
        """Return a configuration for `peft.get_peft_model`.

        Args:
            model: that is to be adapted: its layers decide how far groups expand the rank.
            options: more of its fields, e.g. `task_type`.

        Raises:
            UserError: settings that contradict each other, or groups that are still to be measured.
        """
        from sharelora.tuner.config import ShareLoraConfig

        rule = self.rule
        alpha: Any = self.alpha  # PEFT annotates an int and takes a float
        enabled = {name: list(slices) for name, slices in (self.enabled or {}).items()}
        return ShareLoraConfig(
            r=self.rank_for(() if self.expansion == NONE else self.sites(model)),  # finding them takes a while
            lora_alpha=alpha,
            lora_dropout=self.dropout,
            share_dropout_mask=self.share_dropout_mask,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            target_modules=self.modules if self.modules is None or isinstance(self.modules, str) else [*self.modules],
            enable_lora=enabled or None,
            **({"share_plan": self.sharing} if rule is None else rule_fields(rule)),
            **options,
        )

    def changed(self, r: int | None = None, share: str | None = None) -> AdapterSettings:
        """Return the same adapter with another rank, or with other sides shared; None leaves it."""
        rule = self.rule
        return replace(
            self,
            r=self.r if r is None else r,
            sharing=self.sharing if share is None or rule is None else replace(rule, share=share),
        )

    def with_modules(self, modules: str | Sequence[str]) -> AdapterSettings:
        """Return the same adapter on other modules."""
        return replace(self, modules=modules)

    def with_similarity(self, similarity: Similarity) -> AdapterSettings:
        """Return the settings with the groups that a measurement gives.

        Raises:
            UserError: no two layers are similar enough.
        """
        assert self.measured is not None and self.rule is not None, "only these settings wait for a measurement"
        measured = replace(self.measured, similarity=similarity)
        return replace(self, sharing=replace(self.rule, groups=measured.grouping.groups), measured=measured)

    def without_sharing(self) -> AdapterSettings:
        """Return the settings of LoRA: every layer has its own matrices."""
        return replace(self, sharing=SharingRule("none"), measured=None, expansion=NONE)

    def confined_to_language(self, model: nn.Module) -> AdapterSettings:
        """Return the settings with modules of the language model alone, if the model reads images too.

        Raises:
            UserError: the language model has no such modules.
        """
        if getattr(getattr(model, "config", None), "vision_config", None) is None:
            return self
        from sharelora.models.vision import language_modules

        assert self.modules is not None, "vision-language models have no default modules"
        return self.with_modules(language_modules(model, self.modules))
