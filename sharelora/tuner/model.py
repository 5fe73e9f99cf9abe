"""The tuner that PEFT drives: it plans an adapter, keeps its matrices in a bank, and gives layers views of them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from peft.tuners.lora import LoraModel
from peft.tuners.lora.variants import BlockDiagonalLinear
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sharelora.plan.plan import Entry, SharingPlan
from sharelora.plan.renamed import on_model
from sharelora.plan.rows import plan_from_rows
from sharelora.plan.site import owner
from sharelora.support.errors import UserError
from sharelora.tuner.as_lora import warn_of_shards
from sharelora.tuner.bank import BlockView, MatrixView, deposit, matrices_of
from sharelora.tuner.combine import combine
from sharelora.tuner.config import ShareLoraConfig
from sharelora.tuner.doors import open_doors
from sharelora.tuner.experts import named_experts
from sharelora.tuner.layer import dispatch_share, group_siblings
from sharelora.tuner.loading import present_settings
from sharelora.tuner.mismatch import compare_with_file, compare_with_saved
from sharelora.tuner.passed_by import left_out_of_all, refuse_passed_by
from sharelora.tuner.patterns import patterns_of, require_quick
from sharelora.tuner.quantization import precision, protect_4bit
from sharelora.tuner.register import register
from sharelora.tuner.resize import differences
from sharelora.tuner.sites import (
    OUT_PROJ,
    adaptable_paths,
    parameter_sites,
    refuse_unmatched,
    sites_of,
    with_blocks,
)
from sharelora.tuner.tied import scale_kept, untie_before_merging, untie_before_unloading

BANK = "lora_bank"
# Settings of PEFT that take modules out of those that target_modules names.
_FILTERS = ("exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")


class ShareLoraModel(LoraModel):
    """LoRA whose matrices are kept in a bank.

    Made by `peft.get_peft_model(model, ShareLoraConfig(...))`.

    Attributes:
        lora_bank: adapter name -> matrix name -> parameter; the only place where matrices are kept.
        plans: adapter name -> plan.
        now_at: adapter name -> path of a module where the adapter was made -> its path in this model.
    """

    # PEFT's `inject_adapter_in_model` then refuses to make layers without this object, which owns the bank.
    uses_shared_state = True

    def bank(self, adapter_name: str) -> nn.ParameterDict:
        """Return an adapter's matrices, by name."""
        return cast(nn.ParameterDict, self.lora_bank[adapter_name])

    # BaseTuner._pre_injection_hook: called by its __init__ before the first adapter, when modules can be registered.
    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        self.lora_bank = nn.ModuleDict()
        self.plans: dict[str, SharingPlan] = {}
        self.now_at: dict[str, dict[str, str]] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Plan the adapter, and only then change the model.

        Raises:
            UserError: the plan does not fit the model, or is another than the one the adapter was saved with.
        """
        protect_4bit(model)
        # The caller's own object: PEFT goes on to write into that which the caller has given it.
        config: Any = self.peft_config[adapter_name]
        require_quick(patterns_of(vars(config)), [path for path, _ in model.named_modules()], "the configuration")
        # Copies, so that a refused configuration is as it was.
        wanted, changed = copy.copy(config), named_experts(self, model, config)
        targets = _targets(config, model)
        if targets is not config.target_modules:
            changed["target_modules"] = targets
        vars(wanted).update(changed)
        self._refuse_tied_matrices(model, copy.deepcopy(wanted))
        plan, now_at = self._plan(model, copy.copy(wanted))
        config.check(plan)
        vars(config).update(changed)
        if any(old != new for old, new in now_at.items()):
            # What PEFT adapts, and what will be saved, are the modules of this model.
            for name, value in present_settings(vars(config), plan, now_at).items():
                setattr(config, name, set(value) if name == "target_modules" else value)
        self.plans[adapter_name], self.now_at[adapter_name] = plan, now_at
        self._describe(config, adapter_name)
        was_trained = [(matrix, matrix.requires_grad) for matrix in self.lora_bank.parameters()]
        self.lora_bank[adapter_name] = nn.ParameterDict()
        with _parameters_counted(config, plan):
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        # PEFT freezes other adapters while it injects one and restores those within the model; the banks are outside.
        for matrix, requires_grad in was_trained:
            matrix.requires_grad_(requires_grad)
        paths = {path for plan in self.plans.values() for path in plan.by_path}
        layers = {path: module for path, module in model.named_modules() if path in paths}
        configs: dict[str, Any] = self.peft_config
        group_siblings(layers, {name for name in self.plans if configs[name].share_dropout_mask})

    def _refuse_tied_matrices(self, model: nn.Module, config: Any) -> None:
        """Refuse to tie the adapter of a head to that of the embeddings; whole copies and trained tokens can be tied.

        Args:
            model: the base model.
            config: a copy, into which PEFT writes what it would tie.

        Raises:
            UserError: the head's A would be the B of the embeddings and its B their A, which no plan says.
        """
        if not config.ensure_weight_tying:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT says the same when it adapts the model
            self._check_tied_modules(model, config)
        if getattr(config, "target_modules_to_tie", None):
            raise UserError(
                "ensure_weight_tying does not go with ShareLoRA where embeddings are in target_modules: the head would "
                "use their matrices the other way round; leave it out, or name the embeddings in modules_to_save"
            )

    def _describe(self, config: Any, adapter_name: str) -> None:
        """Write into a configuration what an adapter of this model is."""
        config.fill_in(self.plans[adapter_name].to_json(), precision(self.model))
        config.base_model_type = getattr(getattr(self.model, "config", None), "model_type", None)

    def _plan(self, model: nn.Module, config: Any) -> tuple[SharingPlan, dict[str, str]]:
        """Return the plan of an adapter, and where the modules of a saved one are now, by their paths then."""
        paths = self._target_paths(model, config)
        saved = None if config.saved_plan is None else SharingPlan.from_json(config.saved_plan)
        if saved is not None and not paths and (found := _under_other_names(model, config, saved)) is not None:
            return found
        filters = {name: getattr(config, name) for name in _FILTERS}
        alone = not config.target_modules
        parameters = parameter_sites(model, config.target_parameters or (), config.layers_pattern, alone)
        if paths or not parameters:
            refuse_unmatched(model, config.target_modules or (), paths, filters)
        if saved is None:  # what it adapts is long decided
            refuse_passed_by(model, paths)
        equally = () if saved is None else _cut_equally(saved, paths)
        sites = sites_of(model, paths, config.enable_lora, config.layers_pattern, equally) + parameters
        if config.use_bdlora:
            sites = [with_blocks(site, config.use_bdlora) for site in sites]
        if saved is not None:
            own = [entry.site for entry in saved.entries]
            if sites != own and len(sites) == len(own):
                return on_model(saved, sites)
        if config.share_plan is not None:
            plan = plan_from_rows(config.share_plan, sites, config.r)
        else:
            # PEFT gives what is inside of an attention the rank of the whole.
            owners = {site.path: owner(site.path, paths) for site in sites}
            ranks = {
                path: config.rank_pattern.get(get_pattern_key(config.rank_pattern, whole), config.r)
                for path, whole in owners.items()
            }
            plan = SharingPlan.build(sites, config.rule(), config.r, ranks)
        if saved is not None:
            compare_with_saved(plan, saved)
        return plan, {}

    def _target_paths(self, model: nn.Module, config: Any) -> list[str]:
        """Return the paths that PEFT will adapt, by the steps of `BaseTuner.inject_adapter`."""
        config = self._prepare_adapter_config(config, self.get_model_config(model))
        config = _maybe_include_all_linear_layers(config, model)
        inside = [path + "." for path, module in model.named_modules() if isinstance(module, self.tuner_layer_cls)]
        return [
            path
            for path, _ in model.named_modules()
            if path and not path.startswith(tuple(inside)) and self._check_target_module_exists(config, path)
        ]

    # LoraModel._create_and_replace makes the adapted layer of one module. It is given the rank of the plan; then the
    # matrices that it has initialised go to the bank, and views take their place in the layer.
    def _create_and_replace(  # type: ignore[override]
        self,
        lora_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        *,
        parameter_name: str | None = None,
    ) -> None:
        entries = self.plans[adapter_name].by_path[current_key]
        super()._create_and_replace(
            _module_config(lora_config, entries, target, current_key),
            adapter_name,
            target,
            target_name,
            parent,
            current_key,
            parameter_name=parameter_name,
        )
        layer = getattr(parent, target_name)
        if parameter_name is not None and getattr(layer, "parameter_name", None) != parameter_name:
            layer = target  # another adapter has wrapped the parameter before
        if lora_config.init_lora_weights == "gaussian" and len(entries) > 1:
            # PEFT draws with deviation 1 / r, and its r is the sum over the parts of a fused module.
            layer.lora_A[adapter_name].weight.data.mul_(len(entries))
        self._move_to_bank(adapter_name, layer, entries)
        inner = self.plans[adapter_name].by_path.get(f"{current_key}.{OUT_PROJ}")
        if inner:
            self._move_to_bank(adapter_name, layer.base_layer.out_proj, inner)
        if lora_config.use_dora and not lora_config.init_lora_weights:
            # The magnitude is the norm of W + B A; with a random B it was that of matrices which the bank may not have.
            layer.lora_variant[adapter_name].init(layer, adapter_name=adapter_name, config=lora_config)

    def _move_to_bank(self, adapter_name: str, layer: Any, entries: tuple[Entry, ...]) -> None:
        """Put the matrices of a layer of PEFT into the bank, and views of them into the layer."""
        bank = self.bank(adapter_name)
        for side, matrices in matrices_of(layer, adapter_name).items():
            made = matrices[adapter_name]
            parts = (bank, entries, side, layer.get_base_layer(), getattr(made, "bias", None))
            blocks = isinstance(made, BlockDiagonalLinear)
            view = BlockView(made.nblocks, *parts) if blocks else MatrixView(*parts)
            # An embedding's matrices are parameters, those of other layers modules with one.
            deposit(bank, made if isinstance(made, nn.Parameter) else made.weight, view)
            matrices[adapter_name] = view

    # LoraModel._create_new_module asks one dispatcher after the other; that of this project comes first, but for the
    # classes that the caller has registered layers for.
    @staticmethod
    def _create_new_module(lora_config: Any, adapter_name: str, target: nn.Module, **kwargs: Any) -> nn.Module:
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        registered = isinstance(base, tuple(lora_config._custom_modules or ()))
        new_module = None if registered else dispatch_share(target, adapter_name, config=lora_config, **kwargs)
        if new_module is None:
            new_module = LoraModel._create_new_module(lora_config, adapter_name, target, **kwargs)
        return new_module

    # BaseTuner._cast_adapter_dtype casts the parameters inside adapted layers; the bank is outside.
    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        for matrix in self.bank(adapter_name).values():
            if autocast_adapter_dtype and matrix.dtype in (torch.float16, torch.bfloat16):
                matrix.data = matrix.data.float()

    # BaseTuner._check_merge_allowed is called before any layer is merged.
    def _check_merge_allowed(self) -> None:
        untie_before_merging(self.model)
        super()._check_merge_allowed()

    # BaseTuner._unload_and_optionally_merge puts merged layers, and trained copies of whole modules, into the model.
    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        untie_before_unloading(self.model)
        with scale_kept(self.model):
            return super()._unload_and_optionally_merge(*args, **kwargs)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter with its bank."""
        super().delete_adapter(adapter_name)
        del self.lora_bank[adapter_name], self.plans[adapter_name], self.now_at[adapter_name]

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "svd",
        svd_rank: int | None = None,
        svd_clamp: int | None = None,
        svd_full_matrices: bool = True,
        svd_driver: str | None = None,
        density: float | None = None,
        majority_sign_method: str = "total",
    ) -> None:
        """Combine adapters as `LoraModel.add_weighted_adapter` does, with the sharing of the first one.

        Raises:
            UserError: layers that share a matrix would need different ones.
        """
        if adapter_name in self.peft_config:
            return
        if len(weights) != len(adapters):
            raise UserError(f"{len(weights)} weights for {len(adapters)} adapters; give one for each")
        kind, rank, targets = self._check_add_weighted_adapter(adapters, combination_type, svd_rank)
        config: Any = replace(
            cast(Any, self.peft_config[adapters[0]]),
            **{"r": rank, "lora_alpha": rank, "target_modules": targets, "alpha_pattern": {}, "rank_pattern": {}},
            # One that is fitted to the base would change the base, and what it draws is replaced.
            **{"plan": None, "init_lora_weights": True},
        )
        options = {
            "density": density,
            "majority_sign_method": majority_sign_method,
            "svd_clamp": svd_clamp,
            "svd_full_matrices": svd_full_matrices,
            "svd_driver": svd_driver,
        }
        plan, _ = self._plan(self.model, copy.copy(config))
        matrices = combine(self, adapters, weights, plan, kind, options)
        self.peft_config[adapter_name] = config
        self.inject_adapter(self.model, adapter_name)
        for name, value in matrices.items():
            self.bank(adapter_name)[name].requires_grad_(False).data.copy_(value)

    # LoraModel._enable_peft_forward_hooks: every forward of a PeftModel enters it, whatever the task; many forwards
    # never call the tuner's own.
    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        self._refuse_reentrant_checkpointing()
        with super()._enable_peft_forward_hooks(*args, **kwargs):
            yield

    def _refuse_reentrant_checkpointing(self) -> None:
        """Refuse to train with re-entrant checkpointing in several processes.

        It runs a backward per layer. A matrix that layers share is then ready several times in one step, which
        data-parallel engines either refuse deep inside or synchronise only once, so that ranks diverge.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not (self.training and distributed and torch.distributed.get_world_size() > 1):
            return
        users = [sites for name in self.active_adapters for sites in self.plans[name].users.values()]
        if not any(len({site.layer for site in sites}) > 1 for sites in users):
            return
        module = next((m for m in self.model.modules() if getattr(m, "gradient_checkpointing", False)), None)
        function = getattr(module, "_gradient_checkpointing_func", None)
        # Without an argument torch chooses the re-entrant kind.
        if isinstance(function, partial) and function.keywords.get("use_reentrant", True):
            raise UserError(
                "matrices that layers share do not train in several processes with re-entrant gradient checkpointing; "
                'pass gradient_checkpointing_kwargs={"use_reentrant": False}'
            )

    # BaseTuner._get_adapter_state_dict selects what is saved; PEFT then writes the configuration.
    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        tuner = next((module for module in model.modules() if isinstance(module, cls)), None)
        if tuner is not None:
            # Another model may have been made with the same object since.
            tuner._describe(config, adapter_name)
        found = super()._get_adapter_state_dict(model, config, adapter_name, *args, **kwargs)
        if tuner is not None:
            warn_of_shards(found, tuner.plans[adapter_name], f"{BANK}.{adapter_name}.", adapter_name)
        return found

    # Called by PeftModel.save_pretrained, which resets the initialisation in the initial adapter's configuration, but
    # for LoRA alone.
    @classmethod
    def _convert_state_dict_for_initial_model(
        cls, peft_model: Any, peft_config: Any, path: str, output_state_dict: dict[str, Tensor], kwargs: Any
    ) -> dict[str, Tensor]:
        peft_config.init_lora_weights = True
        peft_config.save_pretrained(path)
        found = super()._convert_state_dict_for_initial_model(peft_model, peft_config, path, output_state_dict, kwargs)
        others = {name: value for name, value in output_state_dict.items() if f".{BANK}." not in name}
        return differences(peft_config, SharingPlan.from_json(peft_config.plan), {**others, **found}, f".{BANK}.")

    # BaseTuner._remap_adapter_state_dict_for_load sees a file's tensors before they are loaded; of those that are
    # missing or left over PEFT only warns afterwards.
    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if config.plan is not None:
            compare_with_file(SharingPlan.from_json(config.plan), state_dict, BANK, config.use_dora)
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


@contextmanager
def _parameters_counted(config: Any, plan: SharingPlan) -> Iterator[None]:
    """Keep PEFT from warning of patterns that are for parameters alone: it looks for their modules only."""
    keys = [*config.rank_pattern, *config.alpha_pattern]
    parameters = set(config.target_parameters or ())
    used = {get_pattern_key(keys, path) for path in plan.by_path} if parameters else set()
    with warnings.catch_warnings():
        if used.issuperset(keys):
            warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        yield


def _under_other_names(model: nn.Module, config: Any, saved: SharingPlan) -> tuple[SharingPlan, dict[str, str]] | None:
    """Put a saved plan on a model of which its configuration names no module: by whole paths, of before.

    Returns:
        See `on_model`; None if the model does not have the modules under any names.
    """
    try:
        return on_model(saved, sites_of(model, adaptable_paths(model), config.enable_lora, config.layers_pattern))
    except UserError:
        return None


def _targets(config: Any, model: nn.Module) -> Any:
    """Return what is to be adapted: for `all-linear`, where some are left out, the paths of the others."""
    expanded: Any = _maybe_include_all_linear_layers(copy.copy(config), model)
    if expanded.target_modules is config.target_modules:
        return config.target_modules
    left = left_out_of_all(model, expanded.target_modules)
    return expanded.target_modules - left if left else config.target_modules


def _cut_equally(saved: SharingPlan, paths: list[str]) -> list[str]:
    """Return the fused modules that a saved plan cuts into equal parts, as older versions did with all."""
    fused = [entry.site for entry in saved.entries if entry.site.part is not None]
    names = [{site.path.rpartition(".")[2] for site in fused if bool(site.rows) is rows} for rows in (False, True)]
    return [path for path in paths if path.rpartition(".")[2] in names[0] - names[1]]


def _module_config(config: Any, entries: tuple[Entry, ...], target: nn.Module, path: str) -> Any:
    """Return the config with which PEFT makes one layer.

    A fused module is one LoRA of its parts' summed rank with a block-structured B; alpha grows so that the scaling
    stays alpha / r of a part.
    """
    config = copy.copy(config)
    count = len(entries)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, path), config.lora_alpha)
    config.r = sum(entry.r for entry in entries)
    config.lora_alpha = alpha * (count**0.5 if config.use_rslora else count)
    config.rank_pattern, config.alpha_pattern = {}, {}
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    config.fan_in_fan_out = isinstance(base, Conv1D)
    return config


register(ShareLoraConfig, ShareLoraModel)
open_doors(ShareLoraConfig, ShareLoraModel, BANK)
