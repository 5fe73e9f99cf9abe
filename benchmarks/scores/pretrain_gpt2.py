"""Pre-train a GPT-2 of about 10M parameters with its own byte-level BPE on plain English, once; then it is cached.

    python benchmarks/scores/pretrain_gpt2.py --corpus ../shared/corpus/novels.tar.xz     prints the model's folder
    python benchmarks/scores/pretrain_gpt2.py --corpus DIR --steps 20                     to see that it works

The last part of every text is held out; the loss on it is in the folder's result.json. It is a small model that has
read little: good for comparing ways to tune, not for its own sake.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.harness.command import new_parser
from benchmarks.scores.corpus import Tokens, digest, encode, hold_out, make_tokenizer, read_texts, shuffled, windows
from sharelora.reporting.results import write_result
from sharelora.support.errors import UserError, run_main
from sharelora.support.files import require_writable
from sharelora.support.folders import made_once
from sharelora.support.reading import read_json

RESULT = "result.json"
LEAST_VOCABULARY = 300
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
HEAD = 64
KIND = "pretrain"
# Steps whose mean loss is shown.
EVERY = 20


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the model. The defaults are about 10M parameters and 12 minutes of two cores.

    Attributes:
        vocabulary: of the tokenizer.
        hidden: width; a head has 64 of it.
        layers: blocks.
        length: the context, and the tokens of a training row.
        rows: per step.
        steps: updates.
        learning_rate: the highest; it warms up and falls linearly to nothing over the last part.
        warmup: steps of warming up.
        decay: the part of all steps over which the learning rate falls.
        weight_decay: of matrices.
        held_out: the part of every text that is not trained on.
        dtype: of the products, fp32 or bf16; weights are fp32 always.
        seed: of the weights and of the order of rows.
    """

    vocabulary: int = 8192
    hidden: int = 320
    layers: int = 6
    length: int = 256
    rows: int = 8
    steps: int = 1200
    learning_rate: float = 2e-3
    warmup: int = 60
    decay: float = 0.5
    weight_decay: float = 0.1
    held_out: float = 0.02
    dtype: str = "bf16"
    seed: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        up, down = (step + 1) / self.warmup, (self.steps - step) / (self.decay * self.steps)
        return self.learning_rate * min(1.0, up, down)


def make_model(recipe: Recipe, vocabulary: int, end: int) -> GPT2LMHeadModel:
    """Return GPT-2 with random weights and without dropout.

    Args:
        recipe: its shape.
        vocabulary: tokens that it knows.
        end: the token between texts.
    """
    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=recipe.length,
        n_embd=recipe.hidden,
        n_layer=recipe.layers,
        n_head=recipe.hidden // HEAD,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel(config).float()


def optimizer_of(model: GPT2LMHeadModel, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW with weight decay for matrices but not for biases and norms."""
    matrices = [value for value in model.parameters() if value.ndim > 1]
    others = [value for value in model.parameters() if value.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95))


def loss_of(model: GPT2LMHeadModel, rows: Tokens, recipe: Recipe) -> Tensor:
    """Return the mean loss of the tokens of some rows, in nats.

    Args:
        rows: token ids (rows, length + 1).
    """
    ids = torch.from_numpy(np.ascontiguousarray(rows)).long()
    with torch.autocast("cpu", DTYPES[recipe.dtype], enabled=recipe.dtype != "fp32"):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def train(model: GPT2LMHeadModel, rows: Tokens, recipe: Recipe) -> list[float]:
    """Train and return the loss of every step."""
    optimizer, batches, losses = optimizer_of(model, recipe), shuffled(rows, recipe.rows, recipe.seed), []
    model.train()
    began = time.monotonic()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        loss = loss_of(model, next(batches), recipe)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        _say(step + 1, recipe, losses, time.monotonic() - began)
    return losses


def _say(step: int, recipe: Recipe, losses: Sequence[float], seconds: float) -> None:
    if step % EVERY and step != recipe.steps:
        return
    mean = sum(losses[-EVERY:]) / len(losses[-EVERY:])
    speed, left = step * recipe.rows * recipe.length / seconds, seconds / step * (recipe.steps - step)
    print(f"step {step}/{recipe.steps}  loss {mean:.3f}  {speed:,.0f} tokens/s  {left:.0f} s left", file=sys.stderr)


@torch.no_grad()
def evaluate(model: GPT2LMHeadModel, rows: Tokens, recipe: Recipe) -> float:
    """Return the mean loss per token of held-out rows, in nats, with fp32 products."""
    model.eval()
    exact = replace(recipe, dtype="fp32")
    parts = [rows[start : start + recipe.rows] for start in range(0, len(rows), recipe.rows)]
    return sum(float(loss_of(model, part, exact)) * len(part) for part in parts) / len(rows)


def build(recipe: Recipe, texts: Sequence[str], folder: Path, corpus: str) -> None:
    """Make the tokenizer and the model, and write them and what they came to into a model folder.

    Args:
        recipe: what to make.
        texts: all of the corpus.
        folder: an existing, empty folder.
        corpus: where the texts are from, for the record.
    """
    began = time.monotonic()
    trained, held = hold_out(texts, recipe.held_out)
    tokenizer = make_tokenizer(trained, recipe.vocabulary, recipe.length)
    tokens, held_tokens = encode(tokenizer, trained), encode(tokenizer, held)
    rows = windows(tokens, recipe.length)
    model = make_model(recipe, len(tokenizer), tokenizer.eos_token_id)
    losses = train(model, rows, recipe)
    seconds = time.monotonic() - began
    metrics = {
        **_held_out(evaluate(model, windows(held_tokens, recipe.length), recipe), held, held_tokens),
        "train_loss_last": sum(losses[-EVERY:]) / len(losses[-EVERY:]),
        "tokens": recipe.steps * min(recipe.rows, len(rows)) * recipe.length,
        "corpus_tokens": len(tokens),
        "parameters": model.num_parameters(),
        "threads": torch.get_num_threads(),
    }
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = {**asdict(recipe), "corpus": corpus, "corpus_sha256": digest(texts)}
    write_result(folder, KIND, config, metrics, seconds=seconds, run="gpt2")


def _held_out(loss: float, texts: Sequence[str], tokens: Tokens) -> dict[str, Any]:
    """Return the loss on held-out text, also per byte: that can be compared between tokenizers."""
    size = sum(len(text.encode()) for text in texts)
    return {
        "held_out_loss": loss,
        "held_out_perplexity": math.exp(loss),
        "held_out_bits_per_byte": loss / math.log(2) * len(tokens) / size,
        "held_out_tokens": len(tokens),
    }


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
    return made_once(folder, (folder / RESULT).is_file, lambda hidden: build(recipe, texts, hidden, str(corpus)))


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
