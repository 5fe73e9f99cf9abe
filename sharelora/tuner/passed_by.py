"""Modules whose weight a model reads past them: the module is not called, so an adapter on it does nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

from torch import nn

from sharelora.support.errors import UserError

# The import inside a function loads PEFT, which takes longer than the model of a plan.

# Type of a model -> names that PEFT refuses in it (`peft.tuners.tuners_utils._check_lora_target_modules_mamba`).
OF_MODELS: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"), ("out_proj", "conv1d")
)
# Class that holds the modules, in transformers -> their names.
PASSED_BY: Mapping[str, tuple[str, ...]] = {
    "MambaMixer": ("dt_proj",),
    "FalconMambaMixer": ("dt_proj",),
    "JambaMambaMixer": ("dt_proj", "conv1d"),
    **dict.fromkeys(("BambaMixer", "GraniteMoeHybridMambaLayer", "Zamba2MambaMixer", "ZambaMambaMixer"), ("conv1d",)),
    **dict.fromkeys(("Qwen3NextGatedDeltaNet", "Qwen3_5GatedDeltaNet", "Qwen3_5MoeGatedDeltaNet"), ("conv1d",)),
    **dict.fromkeys(("OlmoHybridGatedDeltaNet", "KimiLinearDeltaAttention"), ("conv1d",)),
    **dict.fromkeys(("Lfm2ShortConv", "Lfm2MoeShortConv"), ("conv",)),
    "WavLMAttention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "TDNNLayer": ("kernel",),
    **dict.fromkeys(
        ("DetrMHAttentionMap", "ConditionalDetrMHAttentionMap", "MaskFormerDetrMHAttentionMap"), ("k_proj",)
    ),
    "DabDetrMHAttentionMap": ("k_linear",),
    "MobileBertLMPredictionHead": ("dense", "decoder"),
    "LongcatFlashTopkRouter": ("classifier",),
    "LayoutLMv2Encoder": ("rel_pos_bias", "rel_pos_x_bias", "rel_pos_y_bias"),
    "LayoutLMv3Encoder": ("rel_pos_bias", "rel_pos_x_bias", "rel_pos_y_bias"),
}
# The same where a kernel for GPUs is installed. Elsewhere an adapter works, so naming such a module is allowed.
BY_KERNELS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("MambaMixer", "FalconMambaMixer"), ("x_proj",)),
    **dict.fromkeys(("BambaMixer", "GraniteMoeHybridMambaLayer", "Zamba2MambaMixer"), ("out_proj",)),
}


def _holder(model: nn.Module, path: str) -> str:
    return type(model.get_submodule(path.rpartition(".")[0])).__name__


def _type(model: nn.Module) -> str | None:
    return getattr(getattr(model, "config", None), "model_type", None)


def _is_passed_by(model: nn.Module, path: str) -> bool:
    name = path.rpartition(".")[2]
    return name in PASSED_BY.get(_holder(model, path), ()) or name in OF_MODELS.get(_type(model) or "", ())


def refuse_passed_by(model: nn.Module, paths: Iterable[str]) -> None:
    """Refuse modules on which an adapter has no effect.

    Args:
        model: the base model.
        paths: of the modules that are named.

    Raises:
        UserError: such a module, e.g. Mamba's `out_proj`.
    """
    for path in paths:
        if _is_passed_by(model, path):
            name = path.rpartition(".")[2]
            kind = _type(model) or type(model).__name__
            raise UserError(
                f"{name} of a {kind} model cannot be adapted: the model reads the weight of {name} and passes an "
                f"adapter by (in {path}); name other modules with target_modules"
            )


def left_out_of_all(model: nn.Module, paths: Iterable[str]) -> set[str]:
    """Return those of all linear layers on which an adapter has no effect, or none with a kernel; warn of them.

    Args:
        model: the base model.
        paths: of its linear layers.
    """
    left = {
        path
        for path in paths
        if _is_passed_by(model, path) or path.rpartition(".")[2] in BY_KERNELS.get(_holder(model, path), ())
    }
    if left:
        from peft import PeftWarning

        names = ", ".join(sorted({path.rpartition(".")[2] for path in left}))
        warnings.warn(
            f"all linear layers but {names} are adapted: the model, or its kernel for GPUs, reads the weights of these "
            f"{len(left)} modules and passes an adapter by",
            PeftWarning,
            stacklevel=3,
        )
    return left
