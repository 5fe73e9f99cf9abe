"""A random GPT-2 with a tokenizer of its own, and rows that it can learn in a few steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sharelora.training.nlg.job import NlgArguments

Job = Callable[..., tuple[NlgArguments, dict[str, Any]]]  # runs the job with more flags; its arguments and metrics
END = "<|endoftext|>"
NAMES, KINDS, PLACES = ("Cotto", "Aromi", "The Mill", "Zizzi"), ("pub", "coffee shop"), ("riverside", "city centre")


def rows() -> list[tuple[str, str]]:
    """Sixteen inputs with two texts each."""
    found = []
    for name in NAMES:
        for kind in KINDS:
            for place in PLACES:
                context = f"name : {name} | Type : {kind} | area : {place}"
                found.append((context, f"{name} is a {kind} in the {place} ."))
                found.append((context, f"In the {place} there is a {kind} , {name} ."))
    return found


def write_rows(path: Path, count: int = 32) -> Path:
    """Write rows in LoRA's text form."""
    path.write_text("".join(f"{context}||{text} \n" for context, text in rows()[:count]), encoding="utf-8")
    return path


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Make a byte-level tokenizer with one special token, as GPT-2's."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([f"{context} {text}" for context, text in rows()], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=END, eos_token=END, model_max_length=128)
    made.save_pretrained(str(folder))
    return made


def write_model(folder: Path, seed: int = 0) -> Path:
    """Write a random GPT-2 with its usual dropout as a model folder."""
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        # Of the size of a trained model's, so that attention, which the adapters change, matters for the loss.
        for block in model.transformer.h:
            block.attn.c_attn.weight.mul_(8)
            block.attn.c_proj.weight.mul_(8)
    model.save_pretrained(str(folder))
    return folder


def ids_of(path: Path) -> list[dict[str, list[int]]]:
    """Rows of a file of token ids."""
    return [json.loads(line) for line in path.read_text().splitlines()]
