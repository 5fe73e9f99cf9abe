"""Models that read images too: their language model, their projector, their processor, and how they are loaded."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from sharelora.data.vision import OWN_TEMPLATE, ConversationWriter, image_reader
from sharelora.models.known import model_config
from sharelora.models.load import load_base
from sharelora.support.errors import UserError
from sharelora.tuner.sites import ALL_LINEAR, PATTERN

# Brings what the vision tower sees into the language model's space. So it is called in LLaVA, Gemma 3, InternVL,
# PaliGemma and most others of transformers.
PROJECTOR = "multi_modal_projector"
VISION_TOWER = "vision_tower"
# The chat template that a model was tuned with, where its own template says something else.
TEMPLATES = {"llava": "vicuna"}
NEEDED = "a model such as LLaVA-1.5 or Gemma 3"


def require_sight(place: str) -> None:
    """Refuse a model that cannot see, from its configuration alone.

    Raises:
        UserError: it has no vision tower.
    """
    config = model_config(place)
    if getattr(config, "vision_config", None) is None:
        raise UserError(
            f"{place} is of type {config.model_type!r}, which has no vision tower; need {NEEDED}; change the model"
        )


def language_path(model: Any) -> str:
    """Return the path of the language model within a model that sees.

    Raises:
        UserError: it has none of its own, or no projector.
    """
    decoder = model.get_decoder()
    path = next(name for name, module in model.named_modules() if module is decoder)
    found = any(name.rpartition(".")[2] == PROJECTOR for name, _ in model.named_modules())
    if not path or not found:
        lacking = f"no module {PROJECTOR}" if path else "no language model of its own"
        raise UserError(f"{type(model).__name__} has {lacking}; need {NEEDED}; change the model")
    return path


def language_modules(model: Any, names: str) -> str:
    """Return the flag `--lora_modules` that means modules of the language model alone.

    A vision tower has modules of the same names (`q_proj`), which would be adapted too.

    Args:
        model: one that sees, which may be on the meta device.
        names: `all`, names with a comma between them, or `re:` and a pattern of whole paths, which stays as it is.

    Raises:
        UserError: a name that the language model does not have.
    """
    path = language_path(model)
    if names.startswith(PATTERN):
        return names
    decoder = model.get_submodule(path)
    linear = [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    wanted = kinds if names.strip() in ("all", ALL_LINEAR) else [name.strip() for name in names.split(",")]
    idle = [name for name in wanted if not any(f".{site}".endswith(f".{name}") for site in linear)]
    if idle:
        raise UserError(f"modules {', '.join(idle)} match nothing in the language model; it has {', '.join(kinds)}")
    return rf"{PATTERN}{re.escape(path)}\.(.*\.)?({'|'.join(map(re.escape, wanted))})"


def confined(flags: argparse.Namespace, model: Any) -> argparse.Namespace:
    """Return the flags of adapters such that they mean the language model alone, if the model sees; else as they are.

    Raises:
        UserError: see `language_modules`.
    """
    if getattr(getattr(model, "config", None), "vision_config", None) is None:
        return flags
    return argparse.Namespace(**{**vars(flags), "lora_modules": language_modules(model, flags.lora_modules)})


def projector(model: Any) -> nn.Module:
    """Return the projector of a model that sees."""
    return next(module for name, module in model.named_modules() if name.rpartition(".")[2] == PROJECTOR)


def load_vision_base(place: str, **options: Any) -> PreTrainedModel:
    """Load a model that sees; its projector, which is trained, in full precision, and never quantised.

    Updates of a learning rate such as 2e-4 are mostly smaller than what 16 bits can tell apart.

    Args:
        place: a folder or a hub id.
        options: see `load_base`.

    Raises:
        UserError: it cannot see, or see `load_base`.
    """
    require_sight(place)
    kept = (PROJECTOR, VISION_TOWER, "lm_head")
    model = load_base(place, auto_class=AutoModelForImageTextToText, unquantised=kept, **options)
    language_path(model)
    # The model itself casts what the projector gives to the dtype of its embeddings.
    projector(model).float().register_forward_pre_hook(_in_full_precision)
    return model


def _in_full_precision(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for value in inputs
    )


def load_processor(
    place: str, revision: str | None = None, token: str | bool | None = None, cache_dir: str | None = None
) -> Any:
    """Load what prepares images and texts for a model.

    Raises:
        UserError: it is missing or damaged, or needs a package that is not installed.
    """
    try:
        return AutoProcessor.from_pretrained(
            place, revision=None if Path(place).is_dir() else revision, token=token, cache_dir=cache_dir
        )
    except ImportError as error:
        raise UserError(_missing_package(place, str(error))) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the processor of {place} cannot be loaded: {reason}; need processor_config.json or "
            "preprocessor_config.json beside the model; copy it there"
        ) from error


def _missing_package(place: str, said: str) -> str:
    package, extra = ("torchvision", "torchvision") if "torchvision" in said.lower() else ("pillow", "vision")
    return (
        f"the processor of {place} needs the package {package}, which is not installed; run pip install "
        f"'sharelora[{extra}]'"
    )


def open_writer(
    source: str,
    chat_template: str | None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | None = None,
) -> ConversationWriter:
    """Load a model's processor, and return what writes conversations for it.

    Args:
        source: folder or hub id of the model.
        chat_template: as the command line names it; None for the one that fits the model.
        revision: of the model on the hub.
        token: for the hub.
        cache_dir: the hub's cache.

    Raises:
        UserError: the model has no vision tower, or see `load_processor`, `image_reader` and `ConversationWriter`.
    """
    require_sight(source)
    reader = image_reader(load_processor(source, revision, token, cache_dir))
    return ConversationWriter(reader, chat_template or TEMPLATES.get(model_config(source).model_type, OWN_TEMPLATE))
