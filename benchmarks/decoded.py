"""What `e2e_decode.py` decodes: a tuned model or random weights in a known shape, a test set, and which rows of it."""

from __future__ import annotations

import argparse
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sharelora import UserError
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.models.known import model_config

# Tokens of GPT-2 for each word or sign of E2E's inputs, about.
_TOKENS_PER_WORD = 1.1
# So sure of themselves that the order of sums decides no text.
_SPREAD = 0.1


@dataclass(frozen=True)
class Subject:
    """What is decoded.

    Args:
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
    every = list(
        dict.fromkeys([*drawn, *random.Random(seed).sample(range(len(subject.prompts)), len(subject.prompts))])
    )
    needed = len(set(drawn))
    if limit is not None and limit < needed:
        raise UserError(f"found --limit {limit}; need at least the {needed} distinct inputs of --rows; raise it")
    return Part(drawn[:sample], drawn, every[:limit])


def load_subject(given: argparse.Namespace) -> Subject:
    """Load what the command line names.

    Raises:
        UserError: no model named, or something is missing.
    """
    if given.quick:
        from sharelora.tiny import ensure_tiny, tiny_data

        given.model, given.data_root = given.model or str(ensure_tiny("gpt2")), given.data_root or str(tiny_data())
    if given.shape:
        return _random(given)
    if not given.model:
        raise UserError("found no model; need --model DIR, --shape gpt2 or --quick; add one")
    return _tuned(given)


def _root(given: argparse.Namespace) -> Path | None:
    return None if given.data_root is None else Path(given.data_root)


def _settings(given: argparse.Namespace, ends: tuple[int, ...]) -> BeamSettings:
    return BeamSettings(ends, given.beam, given.eval_len, length_penalty=given.length_penalty)


def _tuned(given: argparse.Namespace) -> Subject:
    from sharelora.evaluation.beam.inputs import end_tokens, load_prompts
    from sharelora.models.adapter import attach_adapter
    from sharelora.models.load import load_base, load_tokenizer

    tokenizer = load_tokenizer(given.model)
    model: Any = load_base(given.model, dtype="fp32")
    if given.adapter:
        model = attach_adapter(model, given.adapter)
    found = load_prompts(tokenizer, given.data, "test", given.seq_len, given.eval_len, _root(given))
    rows = dict(sorted((row, place) for place, rows in enumerate(found.rows) for row in rows))
    about = f"{Path(given.model).name} with {given.adapter or 'no adapter'} on {given.data}"
    settings = _settings(given, end_tokens(tokenizer, None))
    return Subject(model, found.ids, list(rows.values()), settings, tokenizer.pad_token_id, about)


def _random(given: argparse.Namespace) -> Subject:
    """Random weights, and random prompts of about the lengths and with the duplicates of a real test set."""
    from sharelora.data.nlg import grouped, load_nlg

    torch.manual_seed(given.seed)
    config = model_config(given.shape)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 2:
                value.normal_(std=_SPREAD)
    records = load_nlg(given.data, "test", _root(given), need_text=False)
    rng, groups = random.Random(given.seed), grouped(records)
    lengths = [int(_TOKENS_PER_WORD * len(re.findall(r"\w+|[^\w\s]", group.context))) + 1 for group in groups]
    prompts = [[rng.randrange(config.vocab_size - 1) for _ in range(length)] for length in lengths]
    places = {row: place for place, group in enumerate(groups) for row in group.rows}
    end = config.vocab_size - 1
    about = f"{given.shape} with random weights, prompts of {given.data}'s lengths"
    return Subject(model, prompts, [places[row] for row in range(len(records))], _settings(given, (end,)), end, about)
