"""What a run reads besides its settings: fingerprints of base, tokenizer and rows, compared when a run resumes."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from sharelora.models.config_file import read_model_config
from sharelora.support.errors import UserError
from sharelora.support.hub import cached_folder
from sharelora.support.reading import read_json
from sharelora.support.tensor_header import sampled_digest
from sharelora.trainer.checkpoints import INPUTS
from sharelora.training.run import Data, Run

logger = logging.getLogger(__name__)

# Of a base's configuration: who wrote it, not what the model is.
_IDLE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
_DIGITS = 16


def fingerprints(run: Run[Any], data: Data) -> dict[str, str]:
    """Return what tells the inputs of a run from others: what it is, in words -> fingerprint.

    They depend on no path and no file's date. Weights are sampled (`sampled_digest`); rows are compared as the tokens
    that are learned, all of them, images by their place in the rows alone.

    Args:
        run: names the base.
        data: its tokenizer and rows.
    """
    base = _base_folder(run)
    return {
        **({} if base is None else _base(base)),
        "tokenizer": _tokenizer(data.tokenizer),
        "training rows": _rows(data.train),
    }


def _short(digest: Any) -> str:
    return str(digest.hexdigest()[:_DIGITS])


def _base_folder(run: Run[Any]) -> Path | None:
    """Return the base's folder; None while it is on the hub alone."""
    folder = Path(run.base).expanduser()
    model = run.args.model
    return folder if folder.is_dir() else cached_folder(run.base, "config.json", model.model_revision, model.cache_dir)


def _base(folder: Path) -> dict[str, str]:
    config = {name: value for name, value in read_model_config(folder).items() if name not in _IDLE}
    text = json.dumps(config, sort_keys=True).encode()
    return {
        "base configuration": _short(hashlib.sha256(text)),
        "base weights": sampled_digest(sorted(folder.glob("*.safetensors")))[:_DIGITS],
    }


def _tokenizer(tokenizer: Any) -> str:
    """Return a fingerprint of the words, the special tokens and the chat template; what else it does is in the rows."""
    parts = (
        sorted(tokenizer.get_vocab().items()),
        sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items()),
        getattr(tokenizer, "chat_template", None),
    )
    return _short(hashlib.sha256(json.dumps(parts).encode()))


def _rows(rows: Any) -> str:
    digest = hashlib.sha256()
    for array in getattr(rows, "arrays", ()):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return f"{len(rows):,} ({_short(digest)})"


def require_same_inputs(checkpoint: Path, now: dict[str, str], anyway: bool) -> None:
    """Refuse to go on from a checkpoint with other inputs than it was trained on.

    Args:
        checkpoint: may be of an earlier version, which wrote no fingerprints.
        now: what `fingerprints` returns.
        anyway: go on with the new ones, and say so.

    Raises:
        UserError: some differ; the message has all of them.
    """
    if not (checkpoint / INPUTS).is_file():
        logger.warning("%s has no %s, so base, tokenizer and rows are not compared with its own", checkpoint, INPUTS)
        return
    before = read_json(checkpoint / INPUTS)
    changed = [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if not changed:
        return
    words = "; ".join(changed)
    if not anyway:
        raise UserError(
            f"{checkpoint} was trained with other inputs of the same name: {words}; need the same; put them back, "
            "choose another --output_dir, --overwrite_output_dir to start again, or --resume_anyway to go on with the "
            "new ones"
        )
    logger.warning("continuing with other inputs than %s has: %s", checkpoint, words)
