"""Quantised bases: their precision, and what keeps them correct and small on a CPU."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from sharelora.support.errors import UserError


def has_bitsandbytes() -> bool:
    """Whether bitsandbytes is installed; it is not imported."""
    return importlib.util.find_spec("bitsandbytes") is not None


def precision(model: nn.Module) -> str:
    """Return the precision of a base model's weights: fp32, bf16, fp16, int8, nf4 or fp4."""
    quantized = getattr(model, "quantization_method", None) and getattr(model.config, "quantization_config", None)
    if quantized:
        if getattr(quantized, "load_in_8bit", False):
            return "int8"
        return getattr(quantized, "bnb_4bit_quant_type", "quantized")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, str(dtype))


def release_file(model: nn.Module) -> None:
    """Copy the weights that quantisation left as they are, so that their file can leave the CPU's memory.

    Weights that are loaded without conversion are views of the mapped file, and a single one of them (an embedding, a
    norm) keeps all of it mapped: a process with a 4-bit base would hold the 16-bit one as well.
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
    import bitsandbytes as bnb  # optional

    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    for layer in layers:
        if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise UserError(
                "this 4-bit model ran in eval mode before it was adapted, so bitsandbytes has repacked its weights and "
                "nothing can be trained through them; load it again and adapt it before its first forward pass"
            )
        layer.support_avx512bf16_for_cpu = False
    return len(layers)
