"""The cache of tiny models and data: each made once, completely or not at all, by one process at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import sys
import time
from pathlib import Path

from sharelora.data import chat, commonsense, formats, questions
from sharelora.data.glue import tasks as glue_tasks
from sharelora.data.nlg import linearise
from sharelora.data.vision import conversations, tokens
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable
from sharelora.support.folders import made_once
from sharelora.tiny.architectures import Architecture, architecture
from sharelora.tiny.build import Progress, build
from sharelora.tiny.objectives import Recipe
from sharelora.tiny.tasks import write_tasks
from sharelora.tiny.vision import write_vision_tasks

logger = logging.getLogger(__name__)

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
STEPS = "SHARELORA_TINY_STEPS"
CACHE = "SHARELORA_CACHE"
# The modules of `sharelora.data` that tiny texts and files depend on: a change of their code makes a new key.
SHAPING_MODULES = (chat, commonsense, formats, questions, glue_tasks, linearise, conversations, tokens)


def cache_folder(cache: str | Path | None = None) -> Path:
    """The folder for tiny models and data: the one given, else SHARELORA_CACHE, else ~/.cache/sharelora.

    Raises:
        UserError: it cannot be written.
    """
    folder = Path(cache or os.environ.get(CACHE) or "~/.cache/sharelora").expanduser() / "tiny"
    try:
        return require_writable(folder)
    except UserError as error:
        raise UserError(f"the cache folder {folder} cannot be written; need one that can; set {CACHE}") from error


def _recipe(chosen: Architecture, steps: int | None) -> Recipe:
    text = os.environ.get(STEPS) if steps is None else str(steps)
    if text is None or text == "":
        return chosen.recipe
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"found {STEPS}={text}; need a whole number of at least 1; change or unset it")
    return dataclasses.replace(chosen.recipe, steps=int(text))


def _key(*parts: object) -> str:
    """A name for exactly this content: the settings, and the code that writes texts and trains."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    shaping = [Path(str(module.__file__)) for module in SHAPING_MODULES]
    for file in (*sorted(Path(__file__).parent.glob("*.py")), *shaping):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def ensure_tiny(
    kind: str = "llama",
    cache: str | Path | None = None,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Return the folder of a tiny model, trained now if this was not done before.

    Args:
        kind: `llama`, `roberta`, `gpt2` or `llava`.
        cache: where it is kept; see `cache_folder`.
        steps: training steps instead of the kind's own, for tests; None takes SHARELORA_TINY_STEPS if set.
        seed: of weights and text.
        progress: called with the finished and all steps; by default a line on stderr.

    Returns:
        A model folder: configuration, safetensors, tokenizer.

    Raises:
        UserError: an unknown kind, a bad number of steps, or a folder that cannot be written.
    """
    chosen = architecture(kind)
    recipe = _recipe(chosen, steps)
    shape = (chosen.config.__name__, chosen.model.__name__, chosen.shape, dataclasses.asdict(recipe))
    folder = cache_folder(cache) / f"{kind}-{_key(kind, shape, seed)}"

    def make(temporary: Path) -> None:
        build(chosen, recipe, temporary, seed, progress or ProgressLine(f"making the tiny {kind} (once)"))
        logger.info("made %s", folder)

    return made_once(folder, lambda: all((folder / name).is_file() for name in MODEL_FILES), make)


def tiny_data(cache: str | Path | None = None) -> Path:
    """Return a folder of data for the tiny models, laid out as the real data: usable as SHARELORA_DATA.

    Args:
        cache: where it is kept; see `cache_folder`.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = cache_folder(cache) / f"data-{_key('data')}"
    return made_once(folder, folder.is_dir, write_tasks)


def tiny_vision_data(cache: str | Path | None = None) -> Path:
    """Return a folder of image-instruction data for the tiny LLaVA: `llava` to learn, `llava_bench` to be scored on.

    Args:
        cache: where it is kept; see `cache_folder`.

    Raises:
        UserError: the folder cannot be written, or pillow is not installed.
    """
    folder = cache_folder(cache) / f"vision-data-{_key('vision data')}"
    return made_once(folder, folder.is_dir, write_vision_tasks)


class ProgressLine:
    """One line on stderr about the progress of a job; on a terminal it is rewritten in place."""

    def __init__(self, what: str) -> None:
        self.what, self.started, self.terminal = what, time.monotonic(), sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Report finished and all steps."""
        last = done == total
        if not (last or done == 1 or (self.terminal and done % 5 == 0)):
            return
        passed = time.monotonic() - self.started
        left = f"done in {passed:.0f} s" if last else f"about {passed / done * (total - done):.0f} s left"
        start, end = ("\r", "\n" if last else "") if self.terminal else ("", "\n")
        sys.stderr.write(f"{start}{self.what}: {done} of {total} steps, {left}      {end}")
        sys.stderr.flush()
