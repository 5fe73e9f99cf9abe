"""Pre-train a GPT-2 of about 10M parameters with a byte-level BPE of its own on plain English, once; then it is cached.

    python benchmarks/pretrain_gpt2.py --corpus ../shared/corpus/novels.tar.xz     prints the model's folder
    python benchmarks/pretrain_gpt2.py --corpus DIR --steps 20                     to see that it works

The last part of every text is held out; the loss on it stands in the folder's result.json. It is a small model that has
read little: good for comparing ways to tune, not for its own sake.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from filelock import FileLock

from benchmarks.corpus import digest, read_texts
from benchmarks.pretraining import DTYPES, HEAD, Recipe, build
from sharelora import UserError
from sharelora.support.files import atomic_folder, read_json, require_writable

RESULT = "result.json"
LEAST_VOCABULARY = 300


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line: where the text is, and every number of the recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--corpus", required=True, metavar="PATH", help="folder or archive of .txt files, or one of them")
    add("--cache", metavar="DIR", help="where models are kept; SHARELORA_CACHE or ~/.cache/sharelora unless given")
    add("--threads", type=int, help="of torch; its own choice unless given")
    for field in fields(Recipe):
        choices = tuple(DTYPES) if field.name == "dtype" else None
        default: Any = field.default
        add(f"--{field.name}", type=type(default), default=default, choices=choices, help=f"of the recipe ({default})")
    return parser.parse_args(argv)


def recipe_of(given: argparse.Namespace) -> Recipe:
    """Return the recipe on the command line.

    Raises:
        UserError: a number that no model can have.
    """
    made = Recipe(**{field.name: getattr(given, field.name) for field in fields(Recipe)})
    for name in ("hidden", "layers", "length", "rows", "steps", "warmup"):
        if getattr(made, name) < 1:
            raise UserError(f"found --{name} {getattr(made, name)}; need at least 1; change it")
    if made.hidden % HEAD:
        raise UserError(f"found --hidden {made.hidden}; need a multiple of {HEAD}, the size of a head; change it")
    if made.vocabulary < LEAST_VOCABULARY:
        raise UserError(f"found --vocabulary {made.vocabulary}; need {LEAST_VOCABULARY} for all bytes and some words")
    if not 0 < made.held_out < 1 or not 0 < made.decay <= 1:
        raise UserError(f"found --held_out {made.held_out} and --decay {made.decay}; need parts between 0 and 1")
    return made


def cache_folder(given: str | None) -> Path:
    """Return the folder of pre-trained models.

    Raises:
        UserError: it cannot be written.
    """
    place = given or os.environ.get("SHARELORA_CACHE") or "~/.cache/sharelora"
    return require_writable(Path(place).expanduser() / "gpt2")


def ensure_gpt2(corpus: str | Path, recipe: Recipe | None = None, cache: str | None = None) -> Path:
    """Return the folder of the model for a corpus and a recipe, pre-trained now if this was not done before.

    Args:
        corpus: as `read_texts` takes it.
        recipe: None for the default one.
        cache: where models are kept; see `cache_folder`.

    Raises:
        UserError: no text, or a folder that cannot be written.
    """
    recipe, texts, root = recipe or Recipe(), read_texts(corpus), cache_folder(cache)
    key = hashlib.sha256(json.dumps([asdict(recipe), digest(texts)], sort_keys=True).encode()).hexdigest()[:12]
    folder = root / f"gpt2-{key}"
    # Others who want the same model wait and then find it.
    with FileLock(root / f".{folder.name}.lock"):
        if not (folder / RESULT).is_file():
            with atomic_folder(folder) as temporary:
                build(recipe, texts, temporary, str(corpus))
    return folder


def describe(folder: Path) -> str:
    """Say what a pre-trained model is and how good it is."""
    result = read_json(folder / RESULT)
    found, minutes = result["metrics"], result["seconds"] / 60
    return (
        f"GPT-2 with {found['parameters']:,} parameters, pre-trained on {found['tokens']:,} tokens of plain English in "
        f"{minutes:.1f} minutes of {found['threads']} threads; held-out loss {found['held_out_loss']:.3f} per token "
        f"(perplexity {found['held_out_perplexity']:.1f}, {found['held_out_bits_per_byte']:.3f} bits per byte)"
    )


def main() -> None:
    """Pre-train what is not there yet and print its folder."""
    given = arguments()
    if given.threads:
        torch.set_num_threads(given.threads)
    folder = ensure_gpt2(given.corpus, recipe_of(given), given.cache)
    print(describe(folder), file=sys.stderr)
    print(folder)


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
