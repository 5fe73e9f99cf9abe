"""How a run starts: whether the As of all layers are equal, whether they are trained, and the encoder's dropout."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from sharelora.support.files import write_bytes

FILE = "start.safetensors"


@dataclass(frozen=True)
class Start:
    """Prepares the model of a run, and keeps what A was then.

    Attributes:
        folder: where `start.safetensors` is written: every A by its name.
        same: give A of every layer the numbers of the first one's, for each kind of module.
        frozen: leave A as it starts.
        dropout: probability of every dropout in the encoder; None leaves them as they are.
    """

    folder: str
    same: bool = False
    frozen: bool = False
    dropout: float | None = None

    def __call__(self, model: Any) -> None:
        """Change a PEFT model with an adapter of this project in place."""
        for module in model.modules():
            if self.dropout is not None and isinstance(module, nn.Dropout):
                module.p = self.dropout
        tuner = model.base_model
        bank, plan = tuner.bank("default"), tuner.plans["default"]
        by_kind: dict[str, list[str]] = defaultdict(list)
        for entry in plan.entries:
            by_kind[entry.site.kind].append(entry.a)
        with torch.no_grad():
            for first, *others in by_kind.values() if self.same else ():
                for name in others:
                    bank[name].copy_(bank[first])
        names = sorted({entry.a for entry in plan.entries})
        for name in names:
            bank[name].requires_grad_(not self.frozen)
        write_bytes(Path(self.folder) / FILE, save({name: bank[name].detach().clone() for name in names}))
