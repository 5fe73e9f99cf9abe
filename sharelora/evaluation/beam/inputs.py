"""The inputs of a decoding: base and adapter, and the prompts of a data set, each distinct one once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sharelora.data.nlg import NlgReport
from sharelora.data.nlg.token_files import load_encoded
from sharelora.data.nlg.tokens import Ids, cut_prompts
from sharelora.evaluation.beam.arguments import BeamOptions
from sharelora.evaluation.subject import Subject
from sharelora.flags.parser import NO_ADAPTER
from sharelora.memory.machine import room_for
from sharelora.models.adapter import load_adapter, recorded_base, resolve_adapter
from sharelora.models.known import MODEL_CARDS
from sharelora.models.load import load_base, resolve_model
from sharelora.support.errors import UserError
from sharelora.tiny import ensure_tiny
from sharelora.tuner.files import read_config

logger = logging.getLogger(__name__)


def locate(options: BeamOptions) -> Subject:
    """Find base and adapter before anything is loaded.

    An adapter without its base gives noise, and so does a base without the adapter that was meant: neither is guessed.

    Raises:
        UserError: one is missing or not named, or the adapter differs from what the flags say.
    """
    adapter = _locate_adapter(options)
    recorded = None if adapter is None else recorded_base(adapter)
    card = None if options.model_card is None else MODEL_CARDS.get(options.model_card)
    base = options.model_name_or_path or card or recorded
    if base is None and adapter is None and options.tiny:
        return Subject(str(ensure_tiny("gpt2")), None)
    if base is None:
        what = f"{adapter}, which does not name its base" if adapter else "no base model"
        raise UserError(f"found {what}; need one; add --model_card gpt2.md or --model_name_or_path DIR")
    if recorded and Path(recorded).name != Path(base).name:
        logger.warning("warning: the adapter says that it was trained on %s; it is now put on %s", recorded, base)
    return Subject(resolve_model(base), adapter)


def _locate_adapter(options: BeamOptions) -> Path | None:
    if options.adapter is None and not options.tiny:
        raise UserError(
            f"found no --adapter; need the adapter that was tuned, or --adapter {NO_ADAPTER} for the base model alone; "
            "add it"
        )
    if options.adapter is None or options.adapter.lower() == NO_ADAPTER:
        if options.lora_dim:
            raise UserError(f"found --lora_dim {options.lora_dim} without an adapter; need --adapter DIR; add it")
        return None
    if Path(options.adapter).expanduser().is_file():
        raise UserError(
            f"{options.adapter} is a file; need an adapter's folder; `sharelora import FILE OUT --base MODEL "
            "--lora_alpha ALPHA` makes one of a loralib checkpoint"
        )
    adapter = resolve_adapter(options.adapter)
    config = read_config(adapter)
    for flag, value, recorded in (
        ("--lora_dim", options.lora_dim, config.get("r")),
        ("--lora_alpha", options.lora_alpha, config.get("lora_alpha")),
    ):
        if value is not None and value != recorded:
            raise UserError(
                f"found {flag} {value:g} but the adapter {adapter} has {recorded}; drop the flag or change it"
            )
    return adapter


def load(subject: Subject, dtype: str) -> Any:
    """Load the base and put the adapter on it.

    Args:
        subject: base and adapter.
        dtype: as `--dtype`.

    Raises:
        UserError: see `load_base` and `load_adapter`; or memory ran out.
    """
    devices = "auto" if torch.cuda.is_available() else None
    with room_for(subject, "--dtype bf16"):
        model: Any = load_base(subject.base, dtype="fp32" if dtype == "fp64" else dtype, device_map=devices)
        if subject.adapter is not None:
            model = load_adapter(model, subject.adapter)
        return model.double() if dtype == "fp64" else model


@dataclass(frozen=True)
class Prompts:
    """The distinct inputs of a data set.

    Args:
        ids: tokens of each, in the order in which they first come.
        rows: the rows of the data set that have it.
        report: what was cut.
    """

    ids: list[Ids]
    rows: list[list[int]]
    report: NlgReport

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these inputs from others."""
        digest = hashlib.sha256(json.dumps([self.ids, self.rows]).encode())
        return {"inputs": len(self.ids), "inputs_sha256": digest.hexdigest()}

    def first(self, count: int | None) -> Prompts:
        """Return the first of them; None for all."""
        return self if count is None else Prompts(self.ids[:count], self.rows[:count], self.report)


def load_prompts(
    tokenizer: Any, data: str, split: str, seq_len: int, eval_len: int, data_root: Path | None = None
) -> Prompts:
    """Read a data set's inputs; its texts, if it has some, are ignored.

    Args:
        tokenizer: the model's.
        data: name of a set, or a file of text or token ids, see `sharelora.data.nlg.token_files.load_encoded`.
        split: of a set.
        seq_len: most tokens of prompt and text together; a prompt that is too long loses its first tokens.
        eval_len: most tokens of the text.
        data_root: folder of local data.

    Raises:
        UserError: no such data, rows of another form, or no room for a prompt.
    """
    if seq_len - eval_len < 2:
        raise UserError(
            f"found --seq_len {seq_len} and --eval_len {eval_len}; need room for at least 2 tokens of the prompt; "
            "raise --seq_len or lower --eval_len"
        )
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, encoded in enumerate(load_encoded(data, split, tokenizer, data_root, need_text=False)):
        rows.setdefault(tuple(encoded.context), []).append(row)
    ids, report = cut_prompts([list(context) for context in rows], seq_len - eval_len)
    return Prompts(ids, list(rows.values()), report)


def end_tokens(tokenizer: Any, others: Sequence[int] | None) -> tuple[int, ...]:
    """The tokens that end a text: the tokenizer's end token and some others.

    Without others, also the token of a blank line if there is one, as in LoRA's recipe: {50256, 628} with GPT-2.
    """
    if others is None:
        blank = tokenizer.encode("\n\n", add_special_tokens=False)
        others = blank if len(blank) == 1 else []
    own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return tuple(dict.fromkeys([*own, *others]))
