"""The model of a run: adapters in its language model alone, and its projector beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sharelora.models.known import meta_model
from sharelora.models.vision import PROJECTOR, load_vision_base, require_vision
from sharelora.trainer.devices import Precision
from sharelora.training.model import load_model
from sharelora.training.vision.arguments import VisionArguments

# What is trained as a whole, and saved with the adapter.
BESIDE = (PROJECTOR,)


def in_language_model(args: VisionArguments, place: str) -> VisionArguments:
    """Return the command line with `--lora_modules` confined to the language model.

    Args:
        args: as typed; files record it so.
        place: folder or hub id of the base.

    Raises:
        UserError: the model cannot see, or its language model has no such modules.
    """
    require_vision(place)
    return replace(args, adapter_settings=args.adapter_settings.confined_to_language(meta_model(place)))


def load_seeing(args: VisionArguments, place: str, precision: Precision, trained: Path | None, training: bool) -> Any:
    """Load the base and put on it what the run needs; see `sharelora.training.model.load_model`.

    Raises:
        UserError: see `load_vision_base` and `load_model`.
    """
    confined = in_language_model(args, place)
    return load_model(confined, place, precision, trained, training, load=_load, beside=BESIDE)


def _load(place: str, trust_remote_code: bool = False, **options: Any) -> Any:
    return load_vision_base(place, **options)
