"""Put a saved adapter, of this project or of plain PEFT, on a base model."""

from __future__ import annotations

import warnings
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

import sharelora  # noqa: F401  # makes PEFT know this project's adapter type
from sharelora.support import hub
from sharelora.support.errors import UserError
from sharelora.support.files import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"


def locate_adapter(name_or_path: str | Path) -> Path:
    """Find an adapter's folder: the one given, its `adapter_model` subfolder (QLoRA's layout), or a hub repository.

    Raises:
        UserError: nothing there, no adapter in it, or pickled weights.
    """
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _from_hub(name)
    for candidate in (folder, folder / "adapter_model"):
        if (candidate / CONFIG).is_file():
            _check_weights(candidate)
            return candidate
    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
    hint = f"it has {', '.join(checkpoints[:5])}: name one of these" if checkpoints else "check the path"
    raise UserError(f"{folder} has no {CONFIG}; need an adapter folder; {hint}")


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    if (folder / PICKLE).is_file():
        raise UserError(
            f"{folder} has pickled weights ({PICKLE}), which can run code when loaded; need {WEIGHTS}; "
            "save the adapter again with safetensors"
        )
    raise UserError(f"{folder} has no {WEIGHTS}; need the adapter's weights beside {CONFIG}; copy it again")


def _from_hub(name: str) -> Path:
    if hub.looks_like_a_path(name):
        raise hub.missing_folder(name, "adapter")
    cached = hub.cached_folder(name, CONFIG)
    if cached is not None and (cached / WEIGHTS).is_file():
        return cached
    if not hub.hub_reachable():
        raise hub.unreachable(name, "adapter")
    files = hub.repository_files(name)
    if CONFIG not in files or WEIGHTS not in files:
        raise UserError(f"{name} is no adapter with safetensors; need {CONFIG} and {WEIGHTS} in it; check the name")
    return Path(hub.huggingface_hub.snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))


def recorded_base(folder: str | Path) -> str | None:
    """The base model that an adapter says it was trained on, or None."""
    value = read_json(locate_adapter(folder) / CONFIG).get("base_model_name_or_path")
    return str(value) if value else None


def attach_adapter(model: PreTrainedModel, folder: str | Path, trainable: bool = False) -> PeftModel:
    """Put a saved adapter on its base model and prove that every weight found its place.

    Args:
        model: the base that the adapter was trained on.
        folder: the adapter's folder or hub id.
        trainable: leave the adapter's weights trainable.

    Raises:
        UserError: the adapter is missing, damaged, pickled, or belongs to another model.
    """
    place = locate_adapter(folder)
    read_json(place / CONFIG)
    names = _stored_names(place / WEIGHTS)
    try:
        with warnings.catch_warnings():
            # PEFT only warns about what does not fit; below it is an error.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(place), is_trainable=trainable)
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(
            f"adapter {place} does not fit this model: {_summary(error)}; need the base it was trained on; "
            "check --model"
        ) from error
    _check_names(adapted, names, place)
    return adapted


def _stored_names(file: Path) -> set[str]:
    try:
        with safe_open(file, framework="pt") as handle:
            return set(handle.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is damaged ({error}); need a whole safetensors file; copy it again") from error


def _check_names(model: PeftModel, stored: set[str], place: Path) -> None:
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    missing = sorted(expected - stored)
    # A tuned copy of a base weight (an embedding) may stand in the file beside the adapter.
    unused = sorted(stored - expected - set(model.state_dict()))
    if missing or unused:
        what = f"{len(missing)} weights are missing from the file" if missing else f"{len(unused)} have no place"
        raise UserError(
            f"adapter {place} does not fit this model: {what}, first {(missing or unused)[0]}; "
            "need the base it was trained on; check --model"
        )


def _summary(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A shape mismatch is reported as a header followed by one line per weight.
    return (lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0] if lines else repr(error))[:300]
