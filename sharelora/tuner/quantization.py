"""Keep quantised bases correct and small on a CPU."""

from __future__ import annotations

import importlib.util

from torch import nn

from sharelora.support.errors import UserError


def has_bitsandbytes() -> bool:
    """Whether bitsandbytes is installed; it is not imported."""
    return importlib.util.find_spec("bitsandbytes") is not None


def let_go_of_file(model: nn.Module) -> None:
    """Copy the weights that quantisation left as they are, so that the file they came from leaves the CPU's memory.

    Weights that are loaded without conversion lie in the mapped file, and a single one of them (an embedding, a norm)
    keeps all of it mapped: a process with a 4-bit base would hold the 16-bit one as well.
    """
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def protect_4bit(model: nn.Module) -> int:
    """Stop bitsandbytes from repacking 4-bit weights in place.

    On CPUs with AVX512-BF16, `Linear4bit.forward` in eval mode rewrites the weight into a layout for inference only,
    and `train()` does not undo it: afterwards no adapter receives a gradient and merging gives garbage, silently. Call
    this right after loading, before any forward pass. On other machines it changes nothing.

    Returns:
        How many 4-bit layers the model has.

    Raises:
        UserError: the weights were repacked already.
    """
    if not has_bitsandbytes():
        return 0
    import bitsandbytes as bnb

    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    for layer in layers:
        if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise UserError(
                "this 4-bit model was run in eval mode before it was adapted, and bitsandbytes repacked its weights, "
                "through which nothing can be trained; load it again and adapt it before its first forward pass"
            )
        layer.support_avx512bf16_for_cpu = False
    return len(layers)
