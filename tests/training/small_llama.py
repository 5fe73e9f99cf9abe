"""A random LLaMA with a tokenizer of its own, and a data set that it can learn in a few steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sharelora.training.instructions.job import InstructionArguments

Job = Callable[..., InstructionArguments]  # runs the job with more flags and returns the parsed arguments

WORDS = "red blue green one two three cat dog bird sees likes the a big small".split()


def rows(count: int) -> list[dict[str, str]]:
    """Alpaca rows: repeat a word."""
    pairs = [(WORDS[i % len(WORDS)], WORDS[(i * 7) % len(WORDS)]) for i in range(count)]
    return [{"instruction": f"say {a} {b} twice", "input": "", "output": f"{a} {b} {a} {b}"} for a, b in pairs]


def write_data(path: Path, count: int = 40) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    return path


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Train a small byte-level tokenizer."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([" ".join(row.values()) for row in rows(60)], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=512
    )
    made.save_pretrained(str(folder))
    return made


def write_model(folder: Path, layers: int = 2, hidden: int = 32, seed: int = 0) -> Path:
    """Write a random LLaMA with grouped-query attention as a model folder."""
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder
