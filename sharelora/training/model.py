"""The model of a run: a base, and on it a new adapter, a saved one, or none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import get_peft_model
from torch import nn

from sharelora.models.adapter import load_adapter
from sharelora.models.load import load_base
from sharelora.trainer.devices import Precision, device_map, require_on_gpu
from sharelora.trainer.launch import engine_of
from sharelora.training.arguments import Arguments
from sharelora.training.output import MODEL
from sharelora.training.place import base_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Count:
    """Elements of a model, each counted once.

    Attributes:
        trainable: elements that are trained.
        total: all of them.
    """

    trainable: int
    total: int

    def __str__(self) -> str:
        share = 100 * self.trainable / max(1, self.total)
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({share:.4f} %)"


def count(model: nn.Module) -> Count:
    """Count elements: shared ones once, packed 4-bit weights by the shape they stand for.

    A 4-bit weight is stored as bytes of two elements; QLoRA's own count halves the trainable ones, which are not
    packed, and leaves the packed ones as they are.
    """
    sizes = [(_elements(p), p.requires_grad) for p in model.parameters()]
    return Count(sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes))


def _elements(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return int(state.shape.numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # of all parts that ZeRO-3 has cut


def load_model(
    args: Arguments,
    place: str,
    precision: Precision,
    trained: Path | None,
    training: bool,
    load: Callable[..., Any] = load_base,
    beside: Sequence[str] = (),
) -> Any:
    """Load the base and put on it what the run needs.

    The base stays as it is loaded: norms, embeddings and head keep the base's dtype. QLoRA raises norms to fp32, whose
    outputs are then fp32 too and are cast back in front of every layer; LLaMA's norms compute in fp32 by themselves.

    Args:
        args: the command line.
        place: folder or hub id of the base.
        precision: of the base.
        trained: a saved adapter, or the `model` folder of a finished full fine-tuning; None for neither.
        training: whether the model will be trained.
        load: loads the base; it takes what `load_base` takes.
        beside: modules of the base that are trained as a whole and saved with the adapter.

    Raises:
        UserError: see `load_base`, `load_adapter` and `ShareLoraConfig`; or the model does not fit.
    """
    full = trained is not None and trained.name == MODEL
    base = _base(args, str(trained) if full else place, precision, load)
    base.requires_grad_(args.model.full_finetune and training)
    if training and _reentrant(args):
        base.enable_input_require_grads()
    if trained is not None and not full:
        return load_adapter(base, trained, trainable=training)
    # The Trainer refuses a quantised base on its own, even to evaluate it; a fresh adapter adds exactly nothing.
    if (training and not args.model.full_finetune) or (precision.bits < 16 and trained is None):
        config = args.adapter_settings.config(task_type="CAUSAL_LM", modules_to_save=list(beside) or None)
        model = get_peft_model(base, config)
        model.peft_config["default"].base_model_name_or_path = base_name(args, place)
        return model
    return base


def _base(args: Arguments, place: str, precision: Precision, load: Callable[..., Any]) -> Any:
    model = args.model
    options: dict[str, Any] = {"attn_implementation": model.attn_implementation} if model.attn_implementation else {}
    if engine_of() == "fsdp2" and precision.bits == 4:
        options["shardable"] = True
    base = load(
        place,
        bits=precision.bits,
        dtype=precision.dtype,
        quant_type=model.quant_type,
        double_quant=model.double_quant,
        revision=model.model_revision,
        token=model.hub_token,
        trust_remote_code=model.trust_remote_code,
        cache_dir=model.cache_dir,
        **options,
        # FSDP2 takes a model from the CPU part by part.
        **({} if engine_of() == "fsdp2" else device_map(model.max_memory_MB, args.train["use_cpu"])),
    )
    require_on_gpu(getattr(base, "hf_device_map", None), args.train["use_cpu"])
    return base


def _reentrant(args: Arguments) -> bool:
    return "true" in str(args.train["activation_checkpointing_kwargs"] or "").lower()
