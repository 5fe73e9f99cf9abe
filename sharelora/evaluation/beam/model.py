"""The model that decodes: a base and the adapter that it was asked for, both or an error."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

from sharelora.evaluation.command import BARE, Subject
from sharelora.models.adapter import load_adapter, recorded_base, resolve_adapter
from sharelora.models.known import MODEL_CARDS
from sharelora.models.load import load_base, resolve_model
from sharelora.support.errors import UserError
from sharelora.support.files import read_json
from sharelora.tuner.files import CONFIG_FILE

logger = logging.getLogger(__name__)


def locate(args: argparse.Namespace) -> Subject:
    """Find base and adapter before anything is loaded.

    An adapter without its base gives noise, and so does a base without the adapter that was meant: neither is guessed.

    Raises:
        UserError: one is missing or not named, or the adapter is not what the flags say.
    """
    adapter = _adapter(args)
    recorded = None if adapter is None else recorded_base(adapter)
    named = args.model_name_or_path or MODEL_CARDS.get(args.model_card) or recorded
    if named is None and adapter is None and args.tiny:
        from sharelora.tiny import ensure_tiny

        return Subject(str(ensure_tiny("gpt2")), None)
    if named is None:
        what = f"{adapter}, which does not name its base" if adapter else "no base model"
        raise UserError(f"found {what}; need one; add --model_card gpt2.md or --model_name_or_path DIR")
    if recorded and Path(recorded).name != Path(named).name:
        logger.warning("warning: the adapter says that it was trained on %s; it is now put on %s", recorded, named)
    return Subject(resolve_model(named), adapter)


def _adapter(args: argparse.Namespace) -> Path | None:
    if args.adapter is None and not args.tiny:
        raise UserError(
            f"found no --adapter; need the adapter that was tuned, or --adapter {BARE} for the base model alone; add it"
        )
    if args.adapter is None or args.adapter.lower() == BARE:
        if args.lora_dim:
            raise UserError(f"found --lora_dim {args.lora_dim} without an adapter; need --adapter DIR; add it")
        return None
    if Path(args.adapter).expanduser().is_file():
        raise UserError(
            f"{args.adapter} is a file; need an adapter's folder; `sharelora import FILE OUT --base MODEL --lora_alpha "
            "ALPHA` makes one of a loralib checkpoint"
        )
    place = resolve_adapter(args.adapter)
    _check(place, args)
    return place


def _check(place: Path, args: argparse.Namespace) -> None:
    config = read_json(place / CONFIG_FILE)
    for flag, value, found in (
        ("--lora_dim", args.lora_dim, config.get("r")),
        ("--lora_alpha", args.lora_alpha, config.get("lora_alpha")),
    ):
        if value is not None and value != found:
            raise UserError(f"found {flag} {value:g} but the adapter {place} has {found}; drop the flag or change it")


def load(subject: Subject, dtype: str) -> Any:
    """Load the base and put the adapter on it.

    Args:
        subject: which base, and which adapter.
        dtype: as `--dtype`.

    Raises:
        UserError: see `load_base` and `load_adapter`.
    """
    devices = "auto" if torch.cuda.is_available() else None
    model: Any = load_base(subject.base, dtype="fp32" if dtype == "fp64" else dtype, device_map=devices)
    if subject.adapter is not None:
        model = load_adapter(model, subject.adapter)
    return model.double() if dtype == "fp64" else model
