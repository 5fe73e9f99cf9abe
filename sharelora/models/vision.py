"""Vision-language models: their language model, projector and processor, and loading them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from sharelora.data.vision import OWN_TEMPLATE, ConversationWriter, image_reader
from sharelora.models.known import model_config
from sharelora.models.load import load_base
from sharelora.plan.site import ALL_LINEAR, ends_with
from sharelora.support.errors import UserError, out_of_memory
from sharelora.support.text import one_line
from sharelora.tuner.passed_by import left_out_of_all

# Maps the output of the vision tower to embeddings of the language model. This is its name in LLaVA, Gemma 3, InternVL,
# PaliGemma and most others of transformers.
PROJECTOR = "multi_modal_projector"
VISION_TOWER = "vision_tower"
# The chat template that a model was tuned with, where its own template says something else.
TEMPLATES = {"llava": "vicuna"}
NEEDED = "a model such as LLaVA-1.5 or Gemma 3"


def require_vision(name_or_path: str) -> None:
    """Refuse a model without a vision tower, from its configuration alone.

    Raises:
        UserError: it has no vision tower.
    """
    config = model_config(name_or_path)
    if getattr(config, "vision_config", None) is None:
        raise UserError(
            f"{name_or_path} is of type {config.model_type!r}, which has no vision tower; need {NEEDED}; "
            "change the model"
        )


def language_path(model: Any) -> str:
    """Return the path of the language model within a vision-language model.

    Raises:
        UserError: it has no separate language model, or no projector.
    """
    decoder = model.get_decoder()
    path = next(name for name, module in model.named_modules() if module is decoder)
    if not path or not any(name.rpartition(".")[2] == PROJECTOR for name, _ in model.named_modules()):
        lacking = f"no module {PROJECTOR}" if path else "no separate language model"
        raise UserError(f"{type(model).__name__} has {lacking}; need {NEEDED}; change the model")
    return path


def language_modules(model: Any, modules: str | Sequence[str]) -> str:
    """Return the pattern of modules' paths, as PEFT's `target_modules` takes it, that means the language model alone.

    A vision tower has modules of the same names (`q_proj`), which would be adapted too.

    Args:
        model: a vision-language model, which may be on the meta device.
        modules: `all-linear`, names, or a pattern of whole paths, which is returned as it is.

    Raises:
        UserError: a name that the language model does not have.
    """
    path = language_path(model)
    if isinstance(modules, str) and modules != ALL_LINEAR:
        return modules
    decoder = model.get_submodule(path)
    linear = [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]
    if isinstance(modules, str):
        left = left_out_of_all(decoder, linear)
        linear = [name for name in linear if name not in left]
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    names = kinds if isinstance(modules, str) else modules
    unmatched = [name for name in names if not any(ends_with(module, name) for module in linear)]
    if unmatched:
        raise UserError(
            f"modules {', '.join(unmatched)} match nothing in the language model; it has {', '.join(kinds)}"
        )
    return rf"{re.escape(path)}\.(.*\.)?({'|'.join(map(re.escape, names))})"


def projector(model: Any) -> nn.Module:
    """Return the projector of a vision-language model."""
    return next(module for name, module in model.named_modules() if name.rpartition(".")[2] == PROJECTOR)


def load_vision_base(name_or_path: str, **options: Any) -> PreTrainedModel:
    """Load a vision-language model; its projector, which is trained, in full precision, and never quantised.

    In 16 bits most updates at a learning rate such as 2e-4 would be rounded away.

    Args:
        name_or_path: a folder or a hub id.
        options: see `load_base`.

    Raises:
        UserError: it has no vision tower, or see `load_base`.
    """
    require_vision(name_or_path)
    unquantised = (PROJECTOR, VISION_TOWER, "lm_head")
    model = load_base(name_or_path, auto_class=AutoModelForImageTextToText, unquantised=unquantised, **options)
    language_path(model)
    # The model itself casts the projector's output to the dtype of its embeddings.
    projector(model).float().register_forward_pre_hook(_in_full_precision)
    return model


def _in_full_precision(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for value in inputs
    )


def load_processor(
    name_or_path: str, revision: str | None = None, token: str | bool | None = None, cache_dir: str | None = None
) -> Any:
    """Load the processor that prepares images and texts for a model.

    Raises:
        UserError: it is missing or damaged, or needs a package that is not installed.
    """
    try:
        return AutoProcessor.from_pretrained(
            name_or_path,
            revision=None if Path(name_or_path).is_dir() else revision,
            token=token,
            cache_dir=cache_dir,
        )
    except ImportError as error:
        torchvision = "torchvision" in str(error).lower()
        package, extra = ("torchvision", "torchvision") if torchvision else ("pillow", "vision")
        raise UserError(
            f"the processor of {name_or_path} needs the package {package}, which is not installed; run pip install "
            f"'sharelora[{extra}]'"
        ) from error
    except Exception as error:  # of any kind, where a file of it is damaged
        if out_of_memory(error):
            raise
        raise UserError(
            f"the processor of {name_or_path} cannot be loaded: {one_line(error)}; need processor_config.json or "
            "preprocessor_config.json in the folder of the model; copy it there"
        ) from error


def open_writer(
    name_or_path: str,
    chat_template: str | None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | None = None,
) -> ConversationWriter:
    """Load a model's processor, and return what writes conversations for it.

    Args:
        name_or_path: folder or hub id of the model.
        chat_template: as the command line names it; None for the one that fits the model.
        revision: of the model on the hub.
        token: for the hub.
        cache_dir: the hub's cache.

    Raises:
        UserError: the model has no vision tower, or see `load_processor`, `image_reader` and `ConversationWriter`.
    """
    require_vision(name_or_path)
    reader = image_reader(load_processor(name_or_path, revision, token, cache_dir))
    template = chat_template or TEMPLATES.get(model_config(name_or_path).model_type, OWN_TEMPLATE)
    return ConversationWriter(reader, template)
