"""Pre-training of a small GPT-2: the recipe, the model, the training loop, and the loss on held-out text."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.scores.corpus import Tokens, digest, encode, hold_out, make_tokenizer, shuffled, windows
from sharelora.reporting.results import write_result

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
    """Return AdamW that lets matrices decay and leaves biases and norms alone."""
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
    kept, held = hold_out(texts, recipe.held_out)
    tokenizer = make_tokenizer(kept, recipe.vocabulary, recipe.length)
    seen, unseen = encode(tokenizer, kept), encode(tokenizer, held)
    rows = windows(seen, recipe.length)
    model = make_model(recipe, len(tokenizer), tokenizer.eos_token_id)
    losses = train(model, rows, recipe)
    seconds = time.monotonic() - began
    metrics = {
        **_held_out(evaluate(model, windows(unseen, recipe.length), recipe), held, unseen),
        "train_loss_last": sum(losses[-EVERY:]) / len(losses[-EVERY:]),
        "tokens": recipe.steps * min(recipe.rows, len(rows)) * recipe.length,
        "corpus_tokens": len(seen),
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
