"""Answers to prompts: `predictions.jsonl` with each row of the data, what was generated, and both together."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import GenerationConfig, PreTrainedTokenizerBase

from sharelora.data import PredictCollator, TokenRows
from sharelora.evaluation.key_value_cache import PromptReader
from sharelora.models.head import head_on, last_position
from sharelora.support.files import write_json_lines
from sharelora.tuner.layer import unchanging

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions.jsonl"


@torch.inference_mode()
def predict(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: TokenRows,
    collator: PredictCollator,
    config: GenerationConfig,
    batch_size: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Generate an answer for every row.

    Rows are batched by length, longest first, padded on the left (never for a model that would read the padding), and
    dealt out to the processes. The prompt is cut
    off by its number of tokens, so an answer that repeats the prompt stays whole.

    Args:
        model: a causal language model.
        tokenizer: decodes the answers.
        rows: prompts with their data rows.
        collator: makes batches.
        config: how to generate.
        batch_size: prompts per batch.
        seed: of the draws, where answers are drawn.

    Returns:
        For each row, in the order of the data: its columns, `prediction` and `prediction_with_input`.
    """
    state = PartialState()
    model.eval()
    torch.manual_seed(seed + state.process_index)
    answers: list[tuple[int, dict[str, Any]]] = []
    lengths = rows.lengths.tolist()
    even = len(set(lengths)) > 1 and not PromptReader(model).can_pad_left(rows.ids(0).tolist() * 2)
    mine = _batches(lengths, batch_size, even)[state.process_index :: state.num_processes]
    for number, indices in enumerate(mine, start=1):
        batch = collator([rows[index] for index in indices])
        texts_of_batch = _texts(model, tokenizer, batch, config)
        answers += [(i, {**row, **texts}) for i, row, texts in zip(indices, batch["rows"], texts_of_batch, strict=True)]
        logger.info("predicted %d of %d batches", number, len(mine))
    every = dict(gather_object(answers) if state.num_processes > 1 else answers)
    return [every[index] for index in range(len(rows))]


def _batches(lengths: Sequence[int], size: int, even: bool) -> list[list[int]]:
    """Indices of rows in batches, the longest first; `even`: of one length each, so that nothing is padded."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    parts = [list(part) for _, part in itertools.groupby(order, lengths.__getitem__)] if even else [order]
    return [part[start : start + size] for part in parts for start in range(0, len(part), size)]


def _texts(
    model: Any, tokenizer: PreTrainedTokenizerBase, batch: dict[str, Any], config: GenerationConfig
) -> Iterator[dict[str, str]]:
    device = model.get_input_embeddings().weight.device
    inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
    with head_on(model, last_position), unchanging(model):
        whole = model.generate(**inputs, generation_config=config)
    # Spaces before punctuation are part of code and of answers.
    decode = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    both = tokenizer.batch_decode(whole, **decode)
    answers = tokenizer.batch_decode(whole[:, inputs["input_ids"].shape[1] :], **decode)
    return ({"prediction": a, "prediction_with_input": b} for a, b in zip(answers, both, strict=True))


def write_predictions(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write predictions, one JSON object per line, atomically.

    Returns:
        The file.
    """
    path = folder / PREDICTIONS
    write_json_lines(path, rows)
    return path
