"""Saved adapters, of this project or of plain PEFT, on a base model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel, get_peft_model_state_dict
from transformers import PreTrainedModel

import sharelora.tuner.model  # noqa: F401 - registers this project's type of adapter with PEFT
from sharelora.support import hub
from sharelora.support.errors import UserError, out_of_memory
from sharelora.support.lazy import moved_functions
from sharelora.support.reading import read_json
from sharelora.tuner.files import CONFIG_FILE, PICKLE_FILE, SETTINGS, WEIGHTS_FILE, check_weights, read_config
from sharelora.tuner.patterns import patterns_of, require_quick
from sharelora.tuner.register import NAME


def resolve_adapter(name_or_path: str | Path) -> Path:
    """Return the folder of an adapter: the one named, its `adapter_model` subfolder (QLoRA's layout), or a hub copy.

    Raises:
        UserError: nothing there, no adapter in it, or pickled weights.
    """
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _from_hub(name)
    for candidate in (folder, folder / "adapter_model"):
        if (candidate / CONFIG_FILE).is_file():
            _require_safetensors(candidate)
            return candidate
    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
    hint = f"it has {', '.join(checkpoints[:5])}: name one of these" if checkpoints else "check the path"
    raise UserError(f"{folder} has no {CONFIG_FILE}; need an adapter folder; {hint}")


def _require_safetensors(folder: Path) -> None:
    if (folder / WEIGHTS_FILE).is_file():
        return
    if (folder / PICKLE_FILE).is_file():
        raise UserError(
            f"{folder} has pickled weights ({PICKLE_FILE}), which can run code when loaded; need {WEIGHTS_FILE}; "
            "save the adapter again with safetensors"
        )
    raise UserError(f"{folder} has no {WEIGHTS_FILE}; need the adapter's weights next to {CONFIG_FILE}; copy it again")


def _from_hub(name: str) -> Path:
    if hub.looks_like_a_path(name):
        raise hub.missing_folder(name, "adapter")
    cached = hub.cached_folder(name, CONFIG_FILE)
    if cached is not None and (cached / WEIGHTS_FILE).is_file():
        return cached
    if not hub.hub_reachable():
        raise hub.unreachable(name, "adapter")
    files = hub.repository_files(name)
    if CONFIG_FILE not in files or WEIGHTS_FILE not in files:
        raise UserError(
            f"{name} has no adapter as safetensors; need {CONFIG_FILE} and {WEIGHTS_FILE} in it; check the name"
        )
    return Path(hub.huggingface_hub.snapshot_download(name, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))


def recorded_base(name_or_path: str | Path) -> str | None:
    """Return the base model that an adapter says it was trained on, or None."""
    base = read_config(resolve_adapter(name_or_path)).get("base_model_name_or_path")
    return str(base) if base else None


def tuned_with_begin(folder: Path) -> bool | None:
    """Whether the rows that an adapter was tuned on began with the tokenizer's begin token, if it has one.

    The folder of a run of this project has its settings. Every task begins rows so but data-to-text, whose inputs are
    as LoRA's. An adapter that shares matrices is taken for one of this project's wherever it lies.

    Args:
        folder: the adapter's.

    Returns:
        None for an adapter of another program.
    """
    for place in (folder, *folder.resolve().parents[:2]):
        settings = read_json(place / SETTINGS, object) if (place / SETTINGS).is_file() else None
        if isinstance(settings, dict) and "processes" in settings:
            return "seq_len" not in settings
    return True if read_config(folder).get("peft_type") == NAME else None


def load_adapter(model: PreTrainedModel, name_or_path: str | Path, trainable: bool = False) -> PeftModel:
    """Put a saved adapter on its base model and prove that every weight of it was loaded.

    Args:
        model: the base that the adapter was trained on.
        name_or_path: the adapter's folder or hub id.
        trainable: leave the adapter's weights trainable.

    Raises:
        UserError: the adapter is missing, damaged, pickled, or belongs to another model.
    """
    folder = resolve_adapter(name_or_path)
    # These say what is wrong with it better than PEFT does, which makes matrices of any rank that it is told.
    config = read_config(folder)
    stored = set(check_weights(folder, config))
    require_quick([*patterns_of(config)], [path for path, _ in model.named_modules()], folder / CONFIG_FILE)
    try:
        with warnings.catch_warnings():
            # PEFT only warns about weights that do not fit; below it is an error.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except UserError:
        raise
    except Exception as error:  # a configuration can break PEFT anywhere
        if out_of_memory(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
        # A shape mismatch is reported as a header followed by one line per weight.
        reason = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
        raise UserError(
            f"adapter {folder} does not fit this model: {reason[:300]}; need the base it was trained on; check --model"
        ) from error
    _require_all_loaded(adapted, stored, folder)
    return adapted


def _require_all_loaded(model: PeftModel, stored: set[str], folder: Path) -> None:
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    missing = sorted(expected - stored)
    # The file may also hold a tuned copy of a base weight, such as an embedding.
    unused = sorted(stored - expected - set(model.state_dict()))
    if missing or unused:
        what = f"{len(missing)} weights are missing from the file" if missing else f"{len(unused)} belong nowhere"
        raise UserError(
            f"adapter {folder} does not fit this model: {what}, first {(missing or unused)[0]}; "
            "need the base it was trained on; check --model"
        )


if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __getattr__ = moved_functions(__name__)
