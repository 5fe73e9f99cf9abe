"""The sections of the GPU run as data, in order of importance, each with its share of the time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from benchmarks.speed.bases import known_config
from benchmarks.speed.steps import ROWS, LossCell

QV = ("q_proj", "v_proj")
VARIANTS = ("peft", "none", "a", "ab", "peft_autocast", "none_autocast")


@dataclass(frozen=True)
class Load:
    """What goes through the model in one step, and whether activations are computed again (non-reentrant)."""

    batch: int
    checkpointing: bool

    def title(self) -> str:
        """Describe it for a table."""
        return f"batch {self.batch}, {'checkpointing' if self.checkpointing else 'no checkpointing'}"


# In order of importance: what does not fit into the time is skipped from the end.
LOADS = (Load(1, False), Load(1, True), Load(4, True), Load(4, False), Load(2, False), Load(2, True))


@dataclass(frozen=True)
class Section:
    """One part of the run.

    Attributes:
        name: for --sections.
        kind: `checks`, `speed`, `loss` or `memory`: which function runs it.
        share: of the time that this and the later sections have left.
        title: for the report.
        options: what the function needs.
    """

    name: str
    kind: str
    share: float
    title: str
    options: dict[str, Any] = field(default_factory=dict)


SECTIONS = (
    Section("checks", "checks", 0.10, "Numbers: gradients and outputs on this device"),
    Section("bf16", "speed", 0.42, "Llama-3-8B shapes, 16-bit", {"nf4": False}),
    Section("loss", "loss", 0.25, "Gemma 3 270M's shape, 16-bit: the loss with a vocabulary of 262,144"),
    Section("memory70b", "memory", 0.32, "LLaMA3-70B shapes, NF4: adapter and optimizer memory", {"nf4": True}),
    Section("nf4", "speed", 0.80, "Llama-3-8B shapes, NF4 with double quantisation", {"nf4": True}),
    Section(
        "dropout",
        "speed",
        1.0,
        "Llama-3-8B shapes, 16-bit, adapter dropout 0.1",
        {"nf4": False, "dropout": 0.1, "loads": LOADS[:2], "variants": ("peft", "none", "a"), "targets": ("all",)},
    ),
)


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        model: of the speed sections.
        large: of the memory section.
        large_layers: layers of it that are built; None means as many as fit.
        r: rank.
        tokens: per sequence.
        loads, variants: of the speed sections.
        steps, warmup: measured steps per load, and those before them.
        dtype: of weights and activations that are not quantised.
        losses: what the loss section measures.
        small: whether its model is a small one.
    """

    model: LlamaConfig
    large: LlamaConfig
    large_layers: int | None
    r: int = 64
    tokens: int = 2048
    loads: tuple[Load, ...] = LOADS
    variants: tuple[str, ...] = VARIANTS
    steps: int = 5
    warmup: int = 2
    dtype: torch.dtype = torch.bfloat16
    losses: tuple[LossCell, ...] = tuple(LossCell(262144, rows, 4, 2048, 64) for rows in ROWS)
    small: bool = False


def full_scale() -> Scale:
    """Return the published shapes, vocabulary included."""
    return Scale(known_config("llama3-8b"), known_config("llama3-70b"), None)


def tiny_scale() -> Scale:
    """Return shapes with which everything runs on a CPU in seconds: grouped-query attention and all, but small."""
    small: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    small |= {"vocab_size": 64, "max_position_embeddings": 128}
    loads = tuple(load for load in LOADS if load.batch == 1)
    model, large = (LlamaConfig(**small, num_hidden_layers=layers) for layers in (2, 8))
    scale = Scale(model, large, 2, r=4, tokens=16, loads=loads, variants=VARIANTS[:4], steps=2, warmup=1)
    return replace(scale, losses=(LossCell(64, "all", 2, 8, 4),), small=True)


@dataclass(frozen=True)
class Deadline:
    """A moment by which something should be done."""

    moment: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the moment so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds until then, 0 when it has passed."""
        return max(0.0, self.moment - time.monotonic())

    def part(self, share: float) -> Deadline:
        """Return a moment on the way there."""
        return Deadline.after(self.left * share)


@dataclass(frozen=True)
class Context:
    """Where the run happens and how large it is.

    Attributes:
        device, scale: where, and how large.
        folders: where results go.
        without_nf4: why there is no 4-bit base here, None if there is.
    """

    device: torch.device
    scale: Scale
    folders: tuple[Path, ...]
    without_nf4: str | None
