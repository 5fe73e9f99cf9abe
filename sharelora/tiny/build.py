"""Make a tiny model: its tokenizer and its weights, the same bytes for the same seed on the same machine."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sharelora.tiny.architectures import Architecture
from sharelora.tiny.objectives import Loss, Recipe
from sharelora.tiny.world import World, make_world

Progress = Callable[[int, int], None]


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Fix all that could change the result, and put it back: seed, threads, precision, algorithms.

    One thread: sums over several depend on their number, and several are slower for such shapes on a busy machine.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.enable_grad():
        try:
            torch.set_num_threads(1)
            torch.set_float32_matmul_precision("highest")
            torch.use_deterministic_algorithms(True)
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)
            torch.use_deterministic_algorithms(deterministic)


def make_tokenizer(architecture: Architecture, recipe: Recipe, world: World, seed: int) -> PreTrainedTokenizerFast:
    """Make a byte-level BPE tokenizer from documents; it writes texts between the kind's special tokens."""
    documents = itertools.islice(architecture.reads(world, random.Random(seed)), recipe.samples)
    core = Tokenizer(BPE())
    # A letter by itself is a token by itself, with or without a space before it: an answer is written one way only.
    letters = pre_tokenizers.Split(Regex("[A-Z](?![a-z])"), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([letters, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    core.decoder = decoders.ByteLevel()
    special = architecture.tokens.special
    trainer = BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator((piece for document in documents for piece in document), trainer)
    core.post_processor = processors.TemplateProcessing(
        single=architecture.tokens.single,
        pair=architecture.tokens.pair,
        special_tokens=[(token, number) for number, token in enumerate(special)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=architecture.tokens.longest,
        # Neither kind of model tells two texts apart by token types.
        model_input_names=["input_ids", "attention_mask"],
        **architecture.tokens.roles,
    )


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step: up over the warm-up, constant, then down to almost nothing."""
    up = (step + 1) / recipe.warmup
    down = (recipe.steps - step) / (recipe.decay * recipe.steps)
    return recipe.learning_rate * min(1.0, up, max(0.02, down))


def train(model: PreTrainedModel, loss: Loss, recipe: Recipe, progress: Progress) -> None:
    """Train a model on an endless source of text.

    Args:
        model: the model to train.
        loss: the loss on the next batch.
        recipe: steps and learning rates.
        progress: called with the finished and all steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    # Without dropout, which the tuned model has: no text is read twice, so there is nothing to protect from.
    model.eval()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        loss(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress(step + 1, recipe.steps)


def build(architecture: Architecture, recipe: Recipe, folder: Path, seed: int, progress: Progress) -> None:
    """Make a model and write it as a model folder.

    Args:
        architecture: the kind of model.
        recipe: how to train it.
        folder: an existing, empty folder.
        seed: of the weights and the text; the world is always the same, so every model fits the same tasks.
        progress: called with the finished and all steps.
    """
    world = make_world()
    tokenizer = make_tokenizer(architecture, recipe, world, seed)
    config = architecture.config(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **architecture.shape,
    )
    with reproducible(seed):
        model = architecture.model(config).float()
        # Another source than the tokenizer's, so that the text continues where that of other seeds does not begin.
        documents = architecture.reads(world, random.Random(seed + 1))
        train(model, architecture.objective(tokenizer, documents, recipe), recipe, progress)
    model.eval().save_pretrained(folder)
    architecture.prepares(tokenizer).save_pretrained(folder)
