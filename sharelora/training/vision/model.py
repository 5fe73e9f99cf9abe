"""The model of a run: adapters in its language model alone, and its projector beside them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharelora.architectures import meta_model
from sharelora.training.model import load_model
from sharelora.training.precision import Precision
from sharelora.training.vision.arguments import VisionArguments
from sharelora.vision import PROJECTOR, language_modules, load_vision_base, require_sight

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
    require_sight(place)
    flags = argparse.Namespace(**vars(args.flags))
    flags.lora_modules = language_modules(meta_model(place), flags.lora_modules)
    return replace(args, flags=flags)


def load_seeing(args: VisionArguments, place: str, precision: Precision, trained: Path | None, training: bool) -> Any:
    """Load the base and put on it what the run needs; see `sharelora.training.model.load_model`.

    Raises:
        UserError: see `load_vision_base` and `load_model`.
    """
    confined = in_language_model(args, place)
    return load_model(confined, place, precision, trained, training, load=_load, beside=BESIDE)


def _load(place: str, trust_remote_code: bool = False, **options: Any) -> Any:
    return load_vision_base(place, **options)
