"""The files of a saved adapter, as PEFT names them: what they hold is checked before anything is made of it.

The standard library alone: what only looks at files need not load PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharelora.support.errors import UserError
from sharelora.support.files import sha256
from sharelora.support.reading import NAME, read_json
from sharelora.support.tensor_header import FLOATS, WHOLE, Stored, read_header

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
# What a run of this project writes beside its adapter and its checkpoints as soon as it begins.
SETTINGS = "settings.json"
_RANK = range(1, 1 << 31)
_NAMES, _FLAG, _WORD = (str, [NAME], None), (bool, None), (NAME, None)
# What an adapter's configuration has to be, as far as it is read here; see `sharelora.support.reading`.
_CONFIG: Mapping[str, Any] = {
    **{"peft_type?": _WORD, "base_model_name_or_path?": _WORD, "revision?": _WORD, "task_type?": _WORD},
    **{"r?": (_RANK, None), "lora_alpha?": (float, None), "lora_dropout?": (float, None)},
    **{"rank_pattern?": ({...: _RANK}, None), "alpha_pattern?": ({...: float}, None)},
    **{"target_modules?": _NAMES, "exclude_modules?": _NAMES, "layers_pattern?": _NAMES, "target_parameters?": _NAMES},
    **{"layers_to_transform?": (int, [int], None), "modules_to_save?": ([NAME], None), "bias?": _WORD},
    **{"trainable_token_indices?": ([int], {...: [int]}, None), "init_lora_weights?": (bool, NAME, None)},
    **{"use_rslora?": _FLAG, "use_dora?": _FLAG, "lora_bias?": _FLAG, "fan_in_fan_out?": _FLAG},
    **{"share?": NAME, "share_modules?": ([NAME], None), "share_across?": NAME, "share_dropout_mask?": bool},
    **{"share_groups?": ([[int]], NAME, None), "share_plan?": (dict, str, None), "plan?": (dict, None)},
    **{"enable_lora?": ({...: [bool]}, None), "trained_on?": _WORD, "base_model_type?": _WORD},
    **{"weights_sha256?": _WORD, "versions?": ({...: NAME}, None)},
}


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of an adapter in a local folder.

    Raises:
        UserError: it is missing, no JSON, or holds values of other kinds than they have to be.
    """
    config: dict[str, Any] = read_json(folder / CONFIG_FILE, _CONFIG)
    return config


def check_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Stored]:
    """Look at the tensors of a local adapter folder, of which only the header is read.

    Args:
        folder: of the adapter.
        config: its configuration.

    Returns:
        Every tensor: name -> dtype and shape.

    Raises:
        UserError: the file is missing or damaged, has an adapter's tensors as whole numbers or in 8 bits, or none that
            is as large as a rank of the configuration.
    """
    file = folder / WEIGHTS_FILE
    header = read_header(file)
    for name, stored in header.items():
        # Modules that are saved whole may count something, as batch norms do.
        if stored.dtype not in FLOATS and (stored.dtype not in WHOLE or "lora_" in name):
            raise UserError(
                f"{file} has {name[:200]} as {stored.dtype}; need {', '.join(FLOATS)}; save the adapter in one of these"
            )
    largest = max((max(stored.shape, default=0) for name, stored in header.items() if "lora_" in name), default=0)
    ranks = [config.get("r") or 0, *(config.get("rank_pattern") or {}).values()]
    if largest and max(ranks) > largest:
        raise UserError(
            f"{folder / CONFIG_FILE} says rank {max(ranks)}, and no matrix in {WEIGHTS_FILE} has so many rows; need "
            "both from one adapter; copy the folder again"
        )
    return header


def verify_weights(folder: Path, expected: str | None) -> None:
    """Compare the weights of a local adapter folder with the checksum in its config.

    Args:
        folder: an adapter's folder; anything else, such as a hub id, is left to PEFT.
        expected: SHA-256 as hexadecimal text; None for adapters of other tools.

    Raises:
        UserError: the weights differ, are missing, or are pickled.
    """
    weights = folder / WEIGHTS_FILE
    if folder.is_dir() and not weights.is_file() and (expected is not None or (folder / PICKLE_FILE).is_file()):
        raise UserError(
            f"{folder} has no {WEIGHTS_FILE}; need the weights as safetensors next to {CONFIG_FILE}; copy the folder "
            "again, or save it again with safetensors"
        )
    if expected is None or not weights.is_file():
        return
    actual = sha256(weights)
    if actual != expected:
        raise UserError(
            f"{weights} is not the file that was saved (sha256 {actual[:12]}..., expected {expected[:12]}...): it is "
            "truncated or altered; copy the folder again from its source"
        )
