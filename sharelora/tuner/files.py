"""The files of a saved adapter, as PEFT names them, and the checksum of its weights.

The standard library alone: what only looks at files need not load PEFT.
"""

from __future__ import annotations

from pathlib import Path

from sharelora.support.errors import UserError
from sharelora.support.files import sha256

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
# What a run of this project writes beside its adapter and its checkpoints as soon as it begins.
SETTINGS = "settings.json"


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
