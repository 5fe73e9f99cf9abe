"""The configuration of a shared adapter: PEFT's LoraConfig and what is shared."""

from __future__ import annotations

import importlib.metadata
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import LoraConfig

from sharelora import __version__
from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.support.errors import UserError
from sharelora.support.files import sha256, write_json
from sharelora.support.reading import read_json
from sharelora.tuner.files import CONFIG_FILE, WEIGHTS_FILE, read_config, verify_weights
from sharelora.tuner.register import peft_type

# Fields of LoRA that a bank cannot serve.
UNSUPPORTED = {
    "layer_replication": "replicated layers share base weights, not adapters",
    "arrow_config": "Arrow routes between whole adapters",
    "use_qalora": "QA-LoRA pools the inputs of A",
}
# What goes with a bank, and what it makes of an adapter beyond an A and a B for each of some layers. The file of the
# adapter holds it; those of a plain LoRA and of a merged base, as they are written here, would not.
BEYOND_EXPORT = {
    "target_parameters": "matrices of parameters that no layer holds",
    "ensure_weight_tying": "a head that uses what was trained of the embeddings",
    "use_bdlora": "block-diagonal matrices",
    "lora_bias": "a bias of every layer",
    "alora_invocation_tokens": "tokens from which on it acts",
    "velora_config": "a projection of every layer's inputs",
    "monteclora_config": "a sampler of every layer",
    "kasa_config": "singular values of every layer, and a base without its smallest ones",
}
# Initialisations that give layers other ranks after the adapter is made.
UNSUPPORTED_INIT = ("eva",)
# What changes outputs that `enable_lora` leaves out.
WHOLE_MODULE = {"use_dora": "DoRA rescales", "lora_bias": "its bias is added to"}
# Initialisations that draw A alone and leave B at zero; any other makes A and B of one layer for each other.
SHAREABLE_INIT = (True, False, "gaussian")


class FilledPlan(dict[str, Any]):
    """A plan that an adapter wrote into its configuration when it was made.

    PEFT needs the caller's own configuration object, and the caller may use it for another model. So a plan that was
    filled in says nothing about the next model, unlike one that was read from a file, which a model has to fit. The
    type goes along with every copy of the configuration, and not into its file.
    """


class FilledText(str):
    """A text that an adapter wrote into its configuration when it was made, as `FilledPlan`."""


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide how an adapter is read: of this code, and of what is installed.

    The metadata of an installed package would say nothing of a source tree, which may be used beside another version.
    """
    installed = {name: importlib.metadata.version(name) for name in ("peft", "transformers", "torch")}
    return {"sharelora": __version__, **installed}


@dataclass
class ShareLoraConfig(LoraConfig):
    """LoRA whose A and/or B are shared between sites.

    The fields of PEFT's `LoraConfig` keep their meaning; those that sharing does not allow are refused.

    Attributes:
        share: sides that are shared: `none` (LoRA), `a`, `b` or `ab`.
        share_modules: modules that share; None means all adapted ones.
        share_across: what users of one matrix may differ in: `layers`, `modules` (of one layer) or `both`.
        share_groups: lists of layers that share among themselves, or `odd_even`.
        share_plan: a hand-written plan (`sharelora.plan.rows`), or the path of its JSON file; replaces the four
            fields above.
        enable_lora: for fused modules, which of their parts are adapted: of q, k and v, or gate
            and up, wherever the model's class has them in the outputs (`sharelora.tuner.layouts`).
        share_dropout_mask: modules that read the same input, such as q, k and v, drop the same of its numbers, which
            takes less memory; LoRA draws a mask for each.
        plan: the plan in full, filled in when the adapter is made; one from a file has to fit the model.
        trained_on: precision of the base that it was made on: `fp32`, `bf16`, `fp16`, `int8`, `nf4` or `fp4`.
        base_model_type: of the model that it was made on, in transformers' words, such as `llama`.
        weights_sha256: checksum of the saved weights, checked on loading.
        versions: libraries that saved the adapter.

    Raises:
        UserError: a rank below 1, an unknown mode, or a variant that sharing does not allow.
    """

    share: str = field(default="a")
    share_modules: list[str] | None = field(default=None)
    share_across: str = field(default="layers")
    share_groups: list[list[int]] | str | None = field(default=None)
    share_plan: dict[str, Any] | str | None = field(default=None)
    enable_lora: dict[str, list[bool]] | None = field(default=None)
    share_dropout_mask: bool = field(default=False)
    plan: dict[str, Any] | None = field(default=None)
    trained_on: str | None = field(default=None)
    base_model_type: str | None = field(default=None)
    weights_sha256: str | None = field(default=None)
    versions: dict[str, str] | None = field(default=None)

    def __post_init__(self) -> None:
        # Before LoraConfig.__post_init__, which warns about some of these variants or imports what they need.
        if not isinstance(self.r, int) or self.r < 1:
            raise UserError(f"rank r={self.r}; a rank is a whole number of 1 or more; set r")
        alphas = (self.lora_alpha, *(self.alpha_pattern or {}).values())
        if not all(isinstance(alpha, int | float) and math.isfinite(alpha) for alpha in alphas):
            raise UserError(f"found lora_alpha {alphas}; need finite numbers; set lora_alpha and alpha_pattern")
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"lora_dropout={self.lora_dropout}; a dropout rate is at least 0 and below 1")
        for name, reason in UNSUPPORTED.items():
            if getattr(self, name, None):
                raise UserError(f"{name} does not go with ShareLoRA: {reason}; leave it out or use peft's LoraConfig")
        if self.init_lora_weights in UNSUPPORTED_INIT:
            raise UserError(
                f"init_lora_weights={self.init_lora_weights!r} is not supported: it gives layers other ranks after the "
                "adapter is made; use true, 'gaussian', 'pissa' or another that PEFT has"
            )
        # PEFT knows layers_pattern only with layers_to_transform; here it also says which numbers count the layers.
        pattern = self.layers_pattern
        self.layers_pattern = pattern if self.layers_to_transform is not None else None
        super().__post_init__()
        self.layers_pattern = pattern
        self.peft_type = peft_type()  # LoraConfig has just set its own
        if isinstance(self.share_plan, str):
            self.share_plan = read_json(self.share_plan)
        self._check_sharing()
        for name, does in WHOLE_MODULE.items():
            if getattr(self, name) and self.enable_lora:
                raise UserError(
                    f"{name} does not go with enable_lora: {does} all outputs of a module, also of the slices that are "
                    "not enabled; leave out one of them"
                )

    def _check_sharing(self) -> None:
        if isinstance(self.share_modules, str):
            raise UserError(f"share_modules is {self.share_modules!r}; need a list of names; write [...] around it")
        if isinstance(self.share_groups, list | tuple) and not all(
            isinstance(group, list | tuple) for group in self.share_groups
        ):
            raise UserError(
                f"share_groups is {list(self.share_groups)}; need a list of lists of layers such as [[0, 1], [2, 3]]"
            )
        rule = self.rule()
        if self.share_plan is not None and (rule.modules is not None or rule.groups is not None or self.rank_pattern):
            raise UserError(
                "share_plan names every matrix, yet share_modules, share_groups or rank_pattern is given; "
                "put it into the rows of the plan"
            )

    def rule(self) -> SharingRule:
        """Return the sharing fields as a checked rule."""
        groups = self.share_groups
        return SharingRule(
            self.share,
            None if self.share_modules is None else tuple(self.share_modules),
            self.share_across,
            tuple(tuple(group) for group in groups) if isinstance(groups, list | tuple) else groups,
        )

    @property
    def saved_plan(self) -> dict[str, Any] | None:
        """The plan that a model has to fit: one that was read or given, not one that making an adapter filled in."""
        return None if isinstance(self.plan, FilledPlan) else self.plan

    def fill_in(self, plan: dict[str, Any], precision: str) -> None:
        """Write down what the adapter of one model is; what was read from a file or given stays.

        Args:
            plan: the adapter's plan, as plain data.
            precision: that of the base, as in `trained_on`.
        """
        if self.saved_plan is None:
            self.plan = FilledPlan(plan)
        if self.trained_on is None or isinstance(self.trained_on, FilledText):
            self.trained_on = FilledText(precision)

    def check(self, plan: SharingPlan) -> None:
        """Refuse what the modules of a plan, or its sharing, do not go with.

        Raises:
            UserError: an initialisation that makes A and B fit each other, e.g. PiSSA, of matrices that are shared, of
                slices, or of modules for which PEFT has none; DoRA of an attention.
        """
        if self.use_dora and (inner := next((path for path in plan.by_path if plan.owner(path) != path), None)):
            raise UserError(
                f"use_dora does not go with {plan.owner(inner)}: PEFT has no DoRA for MultiheadAttention; leave out one"
            )
        init = self.init_lora_weights
        if init in SHAREABLE_INIT:
            return
        sites = [entry.site for entry in plan.entries]
        # PEFT gives embeddings their usual beginning, whatever is asked for, but for LoftQ.
        odd = next(
            (
                site.path
                for site in sites
                if site.kernel or plan.owner(site.path) != site.path or (site.embedding and init == "loftq")
            ),
            None,
        )
        if odd is not None:
            raise UserError(
                f"init_lora_weights={init!r} is for linear layers, which {plan.owner(odd)} is not; use true or "
                "'gaussian'"
            )
        if plan.shares or any(site.part is not None for site in sites):
            raise UserError(
                f"init_lora_weights={self.init_lora_weights!r} computes A and B of each layer for each other, so "
                "layers cannot share one and slices cannot have their own; use true or 'gaussian', or share='none' "
                "without enable_lora"
            )

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write adapter_config.json atomically, with the checksum of the weights in the same folder.

        Args:
            save_directory: folder that holds the weights already.
            kwargs: of `PeftConfigMixin.save_pretrained`.
        """
        weights = Path(save_directory) / WEIGHTS_FILE
        self.weights_sha256 = sha256(weights) if weights.is_file() else None
        self.versions = library_versions()
        # As PeftConfigMixin.save_pretrained, which does not write atomically: a set as a list, keys in order.
        data = self.to_dict()
        data["auto_mapping"] = kwargs.get("auto_mapping_dict") or data["auto_mapping"]
        ordered = {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(data.items())}
        write_json(Path(save_directory) / CONFIG_FILE, ordered)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> ShareLoraConfig:
        """Read a saved config and verify the weights in the same folder.

        Raises:
            UserError: it is damaged, or the weights are not those that were saved.
        """
        folder = Path(pretrained_model_name_or_path, subfolder or "")
        if (folder / CONFIG_FILE).is_file():
            read_config(folder)  # says what is wrong with it better than PEFT does
        with warnings.catch_warnings():
            # PEFT warns about the runtime_config that its own to_dict leaves out; a stray one is harmless.
            warnings.filterwarnings("ignore", message=".*runtime_config.*")
            config = super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)
        verify_weights(folder, config.weights_sha256)
        return config
