"""Frozen RoBERTa-shaped classifiers with random weights, and a training step of one: adapters and head."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from benchmarks.bases import twin
from benchmarks.timing import TrainStep
from benchmarks.variants import Adapter
from sharelora import UserError
from sharelora.models.known import model_config

QUERY_VALUE = ("query", "value")
# fp32 as it is, and as the Trainer's `bf16=True` has it: fp32 weights, products in bf16.
PRECISIONS = {"fp32": False, "bf16_autocast": True}
_HEAD = "classifier."


@dataclass(frozen=True)
class EncoderCell:
    """One configuration: an encoder with query and value adapted, a head, and a batch of sentences.

    Raises:
        UserError: a size that makes no model.
    """

    hidden: int = 768
    layers: int = 12
    rank: int = 8
    batch: int = 8
    tokens: int = 128
    precision: str = "fp32"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.hidden < 64 or self.hidden % 64 or min(self.layers, self.rank, self.batch, self.tokens) < 1:
            raise UserError(
                f"found hidden {self.hidden}, layers {self.layers}, rank {self.rank}, batch {self.batch}, tokens "
                f"{self.tokens}; need a hidden size that 64 divides, and at least 1 of the others"
            )
        if self.precision not in PRECISIONS:
            raise UserError(f"--precision {self.precision!r} is unknown; need some of {', '.join(PRECISIONS)}")

    def adapter(self) -> Adapter:
        """Return what its variants have in common."""
        return Adapter(self.rank, self.dropout, QUERY_VALUE)

    def title(self) -> str:
        """Describe it for a table."""
        return (
            f"{self.precision}: hidden {self.hidden}, {self.layers} layers, rank {self.rank}, {self.batch} x "
            f"{self.tokens} tokens"
        )

    def data(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return asdict(self)


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
    """Return embeddings that require a gradient, (B, T, D), with labels, (B,).

    The gradient goes down to the embeddings for every variant, the floor included (`benchmarks.bases.random_batch`).
    """
    embeddings = torch.empty(cell.batch, cell.tokens, cell.hidden, device=device).normal_()
    labels = torch.randint(2, (cell.batch,), device=device)
    return {"inputs_embeds": embeddings.requires_grad_(), "labels": labels}


class EncoderStep(TrainStep):
    """A training step of a classifier; the head trains in every variant.

    Args:
        model: an adapted model, or the frozen base.
        name: its variant.
        batch: what `sentences` returns.
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
        """Trained numbers without those of the head."""
        named = self.model.named_parameters()
        return sum(p.numel() for path, p in named if p.requires_grad and _HEAD not in path)

    def forward_backward(self) -> float:
        """Compute all gradients and return the loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.model(**self.batch).loss
        loss.backward()
        return float(loss.detach())


def prepare(cell: EncoderCell, names: list[str], device: torch.device) -> dict[str, EncoderStep]:
    """Make every variant ready; all have the weights of one base and a head of their own."""
    from benchmarks.variants import attach

    torch.manual_seed(0)
    base = build_encoder(cell, device)
    batch = sentences(cell, device)
    return {
        name: EncoderStep(attach(_own_head(base), name, cell.adapter()), name, batch, cell.precision) for name in names
    }


def _own_head(base: RobertaForSequenceClassification) -> RobertaForSequenceClassification:
    """Return a twin whose head is a copy: trained, it would otherwise be that of all variants."""
    import copy

    made = twin(base)
    made.classifier = copy.deepcopy(base.classifier)
    return made
