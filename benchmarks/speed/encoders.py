"""Frozen RoBERTa-shaped classifiers with random weights, and a training step of one: adapters and head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from benchmarks.speed.bases import random_batch, twin
from benchmarks.speed.steps import PRECISIONS, EncoderCell
from benchmarks.speed.timing import TrainStep, describe, measure_in_turn
from benchmarks.speed.variants import Adapter, attach
from sharelora.models.known import model_config

QUERY_VALUE = ("query", "value")
_HEAD = "classifier."


def encoder_config(cell: EncoderCell) -> RobertaConfig:
    """Return RoBERTa-base in the cell's size, with a vocabulary so small that it costs nothing."""
    config = model_config("roberta-base")
    if not isinstance(config, RobertaConfig):
        raise TypeError(f"roberta-base is a {type(config).__name__}")
    config.hidden_size, config.num_hidden_layers = cell.hidden, cell.layers
    config.intermediate_size, config.num_attention_heads = 4 * cell.hidden, cell.hidden // 64
    config.vocab_size, config.max_position_embeddings = 64, cell.tokens + 2
    return config


def build_encoder(cell: EncoderCell, device: torch.device) -> RobertaForSequenceClassification:
    """Build a frozen classifier in fp32."""
    with torch.device(device):
        model = RobertaForSequenceClassification(encoder_config(cell))
    return model.requires_grad_(False).train()


def sentences(cell: EncoderCell, device: torch.device) -> dict[str, Tensor]:
    """Return a batch of `random_batch` with a label per row, (B,)."""
    batch = random_batch(encoder_config(cell), cell.batch, cell.tokens, device)
    return {**batch, "labels": torch.randint(2, (cell.batch,), device=device)}


class EncoderStep(TrainStep):
    """A training step of a classifier; the head trains in every variant.

    Args:
        model: an adapted model, or the frozen base.
        name: its variant.
        batch: as `sentences` returns.
        precision: a key of `PRECISIONS`.
    """

    def __init__(self, model: nn.Module, name: str, batch: dict[str, Tensor], precision: str) -> None:
        for path, parameter in model.named_parameters():
            if _HEAD in path:
                parameter.requires_grad_()
        super().__init__(model, name, batch)
        self.bf16 = PRECISIONS[precision]

    @property
    def adapters(self) -> int:
        """Trained parameters without those of the head."""
        named = self.model.named_parameters()
        return sum(p.numel() for path, p in named if p.requires_grad and _HEAD not in path)

    def forward_backward(self) -> float:
        """Compute all gradients and return the loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.model(**self.batch).loss
        loss.backward()
        return float(loss.detach())


def prepare(cell: EncoderCell, names: Sequence[str], device: torch.device) -> dict[str, EncoderStep]:
    """Make every variant ready; all have the weights of one base and their own head."""
    torch.manual_seed(0)
    base, batch = build_encoder(cell, device), sentences(cell, device)
    steps = {}
    for name in names:
        model = twin(base)
        # It trains: the twin's would otherwise be that of all variants.
        model.classifier = copy.deepcopy(base.classifier)
        adapted = attach(model, name, Adapter(cell.rank, cell.dropout, QUERY_VALUE))
        steps[name] = EncoderStep(adapted, name, batch, cell.precision)
    return steps


def compare(cell: EncoderCell, names: Sequence[str], rounds: int, device: torch.device) -> dict[str, Any]:
    """Measure one configuration.

    Args:
        cell: the configuration.
        names: of the variants.
        rounds: measured rounds.
        device: of the model.
    """
    steps = prepare(cell, names, device)
    samples, others = measure_in_turn(cell.title(), steps, rounds)
    rows = {name: {"adapters": step.adapters, **describe(name, samples)} for name, step in steps.items()}
    return {"cell": cell.data(), "others_percent": others, "variants": rows}
