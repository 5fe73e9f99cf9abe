"""Where the base model and the data of a run are: what the command line names, or the project's own small ones."""

from __future__ import annotations

import os
from pathlib import Path

from sharelora.data.find import DATA_FOLDER
from sharelora.models.load import resolve_model
from sharelora.training.arguments import Arguments
from sharelora.training.options import RunArguments


def locate_base(args: Arguments, tiny: str = "llama") -> str:
    """Return the base model's folder, or its hub id where the hub has it.

    Args:
        args: the command line.
        tiny: kind of the small model that --tiny means.

    Raises:
        UserError: it is nowhere, or the hub cannot be reached; said at once.
    """
    model = args.model
    if args.run.tiny and "model_name_or_path" not in args.given:
        from sharelora.tiny import ensure_tiny

        return str(ensure_tiny(tiny))
    return resolve_model(model.model_name_or_path, model.model_revision, model.hub_token, model.cache_dir)


def base_name(args: Arguments, place: str) -> str:
    """Return the base model's name as files record it: the hub id that was asked for, or a folder's whole path.

    A hub model that is in the cache already is loaded from a folder there, whose path means nothing elsewhere.
    """
    named = args.model.model_name_or_path
    from_hub = not (args.run.tiny and "model_name_or_path" not in args.given) and not Path(named).expanduser().is_dir()
    return named if from_hub else str(Path(place).resolve())


def data_root(run: RunArguments) -> Path | None:
    """Return the folder of local data; None leaves it to SHARELORA_DATA and the hub."""
    if run.tiny and not os.environ.get(DATA_FOLDER):
        from sharelora.tiny import tiny_data

        return Path(tiny_data())
    return None
