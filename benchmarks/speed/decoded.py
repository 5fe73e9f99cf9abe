"""The subject of `e2e_decode.py`: a tuned model or random weights in a known shape, a test set, and rows of it."""

from __future__ import annotations

import argparse
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sharelora.data.nlg import grouped, load_nlg
from sharelora.evaluation.beam.inputs import end_tokens, load_prompts
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.models.adapter import load_adapter
from sharelora.models.known import model_config
from sharelora.models.load import load_base, load_tokenizer
from sharelora.support.errors import UserError
from sharelora.tiny import ensure_tiny, tiny_data

# GPT-2's tokens per word or sign of E2E's inputs, about.
_TOKENS_PER_WORD = 1.1
# Spread of random weights: wide enough that no text depends on the order in which numbers are added.
_SPREAD = 0.1


@dataclass(frozen=True)
class Subject:
    """What is decoded.

    Attributes:
        model: a causal language model.
        prompts: tokens of each distinct input.
        rows: the distinct input of each row of the test set.
        settings: of the search.
        pad_id: a token to fill with.
        about: what it is, for the report.
    """

    model: Any
    prompts: list[list[int]]
    rows: list[int]
    settings: BeamSettings
    pad_id: int
    about: str

    @property
    def count(self) -> int:
        """Rows of the test set."""
        return len(self.rows)


@dataclass(frozen=True)
class Part:
    """Which distinct inputs each way decodes; the first two with repetitions, as the rows have them."""

    sample: list[int]
    rows: list[int]
    inputs: list[int]


def choose(subject: Subject, sample: int, rows: int, limit: int | None, seed: int) -> Part:
    """Draw rows; whatever is decoded one way is also decoded the next.

    Args:
        subject: what is decoded.
        sample: rows for upstream's way.
        rows: rows for batches with duplicates.
        limit: distinct inputs for our way; None for all.
        seed: of the draw.

    Raises:
        UserError: numbers that do not contain each other.
    """
    rows = min(rows, subject.count)
    if not 1 <= sample <= rows:
        raise UserError(f"found --sample {sample} and --rows {rows}; need at least 1 and no more sampled than rows")
    drawn = random.Random(seed).sample(subject.rows, rows)
    shuffled = random.Random(seed).sample(range(len(subject.prompts)), len(subject.prompts))
    every = list(dict.fromkeys([*drawn, *shuffled]))
    needed = len(set(drawn))
    if limit is not None and limit < needed:
        raise UserError(f"found --limit {limit}; need at least the {needed} distinct inputs of --rows; raise it")
    return Part(drawn[:sample], drawn, every[:limit])


def load_subject(args: argparse.Namespace) -> Subject:
    """Load the model and the test set on the command line.

    Raises:
        UserError: no model named, or something is missing.
    """
    if args.quick:
        args.model, args.data_root = args.model or str(ensure_tiny("gpt2")), args.data_root or str(tiny_data())
    if args.shape:
        return _random(args)
    if not args.model:
        raise UserError("found no model; need --model DIR, --shape gpt2 or --quick; add one")
    return _tuned(args)


def _root(args: argparse.Namespace) -> Path | None:
    return None if args.data_root is None else Path(args.data_root)


def _settings(args: argparse.Namespace, ends: tuple[int, ...]) -> BeamSettings:
    return BeamSettings(ends, args.beam, args.eval_len, length_penalty=args.length_penalty)


def _tuned(args: argparse.Namespace) -> Subject:
    tokenizer = load_tokenizer(args.model)
    model: Any = load_base(args.model, dtype="fp32")
    if args.adapter:
        model = load_adapter(model, args.adapter)
    loaded = load_prompts(tokenizer, args.data, "test", args.seq_len, args.eval_len, _root(args))
    inputs = dict(sorted((row, index) for index, rows in enumerate(loaded.rows) for row in rows))
    about = f"{Path(args.model).name} with {args.adapter or 'no adapter'} on {args.data}"
    settings = _settings(args, end_tokens(tokenizer, None))
    return Subject(model, loaded.ids, list(inputs.values()), settings, tokenizer.pad_token_id, about)


def _random(args: argparse.Namespace) -> Subject:
    """Random weights, and random prompts of about the lengths and with the duplicates of a real test set."""
    torch.manual_seed(args.seed)
    config = model_config(args.shape)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 2:
                value.normal_(std=_SPREAD)
    records = load_nlg(args.data, "test", _root(args), need_text=False)
    rng, groups = random.Random(args.seed), grouped(records)
    lengths = [int(_TOKENS_PER_WORD * len(re.findall(r"\w+|[^\w\s]", group.context))) + 1 for group in groups]
    prompts = [[rng.randrange(config.vocab_size - 1) for _ in range(length)] for length in lengths]
    inputs = {row: index for index, group in enumerate(groups) for row in group.rows}
    end = config.vocab_size - 1
    about = f"{args.shape} with random weights, prompts of {args.data}'s lengths"
    return Subject(model, prompts, [inputs[row] for row in range(len(records))], _settings(args, (end,)), end, about)
