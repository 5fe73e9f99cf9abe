"""The model of a run: where its base is, and what is put on it: a new adapter, a saved one, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import get_peft_model
from torch import nn

from sharelora.models.adapter import load_adapter
from sharelora.models.load import load_base, resolve_model
from sharelora.support.errors import UserError
from sharelora.tiny import ensure_tiny
from sharelora.trainer.devices import require_on_gpu
from sharelora.trainer.launch import engine_of
from sharelora.training.arguments import MODEL, Arguments
from sharelora.training.run import Run
from sharelora.training.settings import checkpointing


def locate_base(args: Arguments, tiny: str = "llama") -> str:
    """Return the base model's folder, or its hub id where the hub has it.

    Args:
        args: the command line.
        tiny: kind of the small model that --tiny means.

    Raises:
        UserError: it is not named, is nowhere, or the hub cannot be reached; said at once.
    """
    if args.tiny_base:
        return str(ensure_tiny(tiny))
    model = args.model
    if model.model_name_or_path is None:
        raise UserError("no model is named; need a base model; pass --model_name_or_path DIR, or add --tiny")
    return resolve_model(model.model_name_or_path, model.model_revision, model.hub_token, model.cache_dir)


def base_name(args: Arguments, base: str) -> str:
    """Return the base model's name as files record it: the hub id that was asked for, or a folder's whole path.

    A hub model that is in the cache already is loaded from a folder there, whose path means nothing elsewhere.
    """
    named = args.model.model_name_or_path
    from_hub = not args.tiny_base and named is not None and not Path(named).expanduser().is_dir()
    return str(named) if from_hub else str(Path(base).resolve())


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
    """Count elements: shared ones once, packed 4-bit weights by their unpacked shape.

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


def base_options(run: Run[Any]) -> dict[str, Any]:
    """Return how a run loads its base, as options of `load_base`: precision, hub and devices."""
    model, precision = run.args.model, run.precision
    return {
        "bits": precision.bits,
        "dtype": precision.dtype,
        **model.quantisation,
        **model.hub,
        **model.devices(run.args.train["use_cpu"]),
    }


def load_model(
    run: Run[Any],
    load: Callable[..., Any] = load_base,
    whole: Sequence[str] = (),
    task_type: str = "CAUSAL_LM",
) -> Any:
    """Load the base and put on it what the run needs.

    The base stays as it is loaded: norms, embeddings and head keep the base's dtype. QLoRA raises norms to fp32, whose
    outputs are then fp32 too and are cast back in front of every layer; LLaMA's norms compute in fp32 by themselves.

    Args:
        run: which base, in which precision, and what to put on it.
        load: loads the base; it takes what `load_base` takes.
        whole: modules of the base that are trained as a whole and saved with the adapter.
        task_type: PEFT's name of what the model does.

    Raises:
        UserError: see `load_base`, `load_adapter` and `ShareLoraConfig`; or the model does not fit.
    """
    args, trained = run.args, run.trained
    full = trained is not None and trained.name == MODEL
    options = base_options(run)
    if args.model.attn_implementation:
        options["attn_implementation"] = args.model.attn_implementation
    if engine_of() == "fsdp2":
        options.pop("device_map", None)  # FSDP2 takes a model from the CPU part by part.
        options.pop("max_memory", None)
        if run.precision.bits == 4:
            options["shardable"] = True
    base = load(str(trained) if full else run.base, **options)
    require_on_gpu(getattr(base, "hf_device_map", None), args.train["use_cpu"])
    base.requires_grad_(args.full and run.training)
    if run.training and checkpointing(args.train["activation_checkpointing_kwargs"])["use_reentrant"]:
        base.enable_input_require_grads()
    if trained is not None and not full:
        return load_adapter(base, trained, trainable=run.training)
    # The Trainer refuses a quantised base on its own, even to evaluate it; a fresh adapter adds exactly nothing.
    if (run.training and not args.full) or (run.precision.bits < 16 and trained is None):
        config = run.adapter.config(base, task_type=task_type, modules_to_save=list(whole) or None)
        model = get_peft_model(base, config)
        model.peft_config["default"].base_model_name_or_path = run.base_name
        return model
    return base
