"""Pre-train a GPT-2 of about 10M parameters with a byte-level BPE of its own on plain English, once; then it is cached.

    python benchmarks/scores/pretrain_gpt2.py --corpus ../shared/corpus/novels.tar.xz     prints the model's folder
    python benchmarks/scores/pretrain_gpt2.py --corpus DIR --steps 20                     to see that it works

The last part of every text is held out; the loss on it is in the folder's result.json. It is a small model that has
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
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from filelock import FileLock

from benchmarks.harness.command import new_parser
from benchmarks.scores.corpus import digest, read_texts
from benchmarks.scores.pretraining import DTYPES, HEAD, Recipe, build
from sharelora.support.errors import UserError, run_main
from sharelora.support.files import atomic_folder, read_json, require_writable

RESULT = "result.json"
LEAST_VOCABULARY = 300


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line: where the text is, and every number of the recipe."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--corpus", required=True, metavar="PATH", help="folder or archive of .txt files, or one of them")
    add("--cache", metavar="DIR", help="where models are kept; SHARELORA_CACHE or ~/.cache/sharelora unless given")
    add("--threads", type=int, help="of torch; its own choice unless given")
    for field in fields(Recipe):
        choices = tuple(DTYPES) if field.name == "dtype" else None
        default: Any = field.default
        add(f"--{field.name}", type=type(default), default=default, choices=choices, help=f"of the recipe ({default})")
    return parser.parse_args(argv)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return the recipe on the command line.

    Raises:
        UserError: a number that no model can have.
    """
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    for name in ("hidden", "layers", "length", "rows", "steps", "warmup"):
        if getattr(recipe, name) < 1:
            raise UserError(f"found --{name} {getattr(recipe, name)}; need at least 1; change it")
    if recipe.hidden % HEAD:
        raise UserError(f"found --hidden {recipe.hidden}; need a multiple of {HEAD}, the size of a head; change it")
    if recipe.vocabulary < LEAST_VOCABULARY:
        raise UserError(f"found --vocabulary {recipe.vocabulary}; need {LEAST_VOCABULARY} for all bytes and some words")
    if not 0 < recipe.held_out < 1 or not 0 < recipe.decay <= 1:
        raise UserError(f"found --held_out {recipe.held_out} and --decay {recipe.decay}; need parts between 0 and 1")
    return recipe


def cache_folder(cache: str | None) -> Path:
    """Return the folder of pre-trained models.

    Raises:
        UserError: it cannot be written.
    """
    root = cache or os.environ.get("SHARELORA_CACHE") or "~/.cache/sharelora"
    return require_writable(Path(root).expanduser() / "gpt2")


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
    # Another process that wants the same model waits and then finds it.
    with FileLock(root / f".{folder.name}.lock"):
        if not (folder / RESULT).is_file():
            with atomic_folder(folder) as temporary:
                build(recipe, texts, temporary, str(corpus))
    return folder


def describe(folder: Path) -> str:
    """Say what a pre-trained model is and how good it is."""
    result = read_json(folder / RESULT)
    metrics, minutes = result["metrics"], result["seconds"] / 60
    return (
        f"GPT-2 with {metrics['parameters']:,} parameters, pre-trained on {metrics['tokens']:,} tokens of plain "
        f"English in {minutes:.1f} minutes of {metrics['threads']} threads; held-out loss "
        f"{metrics['held_out_loss']:.3f} per token (perplexity {metrics['held_out_perplexity']:.1f}, "
        f"{metrics['held_out_bits_per_byte']:.3f} bits per byte)"
    )


def main() -> None:
    """Pre-train what is not there yet and print its folder."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    folder = ensure_gpt2(args.corpus, recipe_of(args), args.cache)
    print(describe(folder), file=sys.stderr)
    print(folder)


if __name__ == "__main__":
    run_main(main)
