"""Small networks of embeddings, convolutions and attention, and PEFT's LoRA on them with the same matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from sharelora import ShareLoraConfig

WORDS, WIDTH, LAYERS = 20, 8, 3
CONVOLUTIONS: dict[str, tuple[type[nn.Module], int]] = {
    "1d": (nn.Conv1d, 1),
    "2d": (nn.Conv2d, 2),
    "3d": (nn.Conv3d, 3),
}


class Net(nn.Module):
    """Token ids -> an embedding -> three equal layers, each with a convolution -> logits.

    Args:
        dimensions: of the convolutions: `1d`, `2d` or `3d`.
        settings: of the convolutions.
    """

    def __init__(self, dimensions: str = "1d", **settings: Any) -> None:
        super().__init__()
        convolution, self.dimensions = CONVOLUTIONS[dimensions]
        settings = {"kernel_size": 3, "padding": 1, **settings}
        self.words = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"conv": convolution(WIDTH, WIDTH, **settings), "kinds": nn.Embedding(4, WIDTH)})
            for _ in range(LAYERS)
        )
        self.out = nn.Linear(WIDTH, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (batch, WORDS)."""
        h = self.words(ids).transpose(1, 2)
        for _ in range(self.dimensions - 1):
            h = torch.stack([h, 0.5 * h, h.roll(1, -1)], -1)
        for layer in self.layers:
            kind = layer["kinds"](ids[:, 0] % 4).reshape(len(ids), WIDTH, *(1 for _ in range(self.dimensions)))
            h = torch.tanh(layer["conv"](h)) + kind
        logits: Tensor = self.out(h.flatten(2).mean(2))
        return logits


class Attentive(nn.Module):
    """Token ids -> two layers of torch's own attention -> logits."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"attention": nn.MultiheadAttention(WIDTH, 2, batch_first=True)}) for _ in range(2)
        )
        self.out = nn.Linear(WIDTH, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (batch, WORDS)."""
        h = self.words(ids)
        for layer in self.layers:
            h = h + layer["attention"](h, h, h, need_weights=False)[0]
        logits: Tensor = self.out(h.mean(1))
        return logits


NETS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "embeddings": (Net, ["words", "kinds"]),
    "conv1d": (lambda: Net("1d"), ["conv"]),
    "conv2d": (lambda: Net("2d", stride=(1, 2), padding="valid", kernel_size=(1, 1)), ["conv"]),
    "conv2d strided": (lambda: Net("2d", stride=(1, 2), kernel_size=(3, 2)), ["conv"]),
    "conv3d": (lambda: Net("3d"), ["conv", "kinds"]),
    "groups": (lambda: Net("2d", groups=2, padding="same"), ["conv"]),
    "attention": (Attentive, ["attention", "words"]),
}


def ids(rows: int = 4, length: int = 6, seed: int = 1) -> Tensor:
    """A batch of token ids."""
    return torch.randint(0, WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))


def built(net: str) -> nn.Module:
    """One of the networks, with the same weights each time."""
    torch.manual_seed(0)
    return NETS[net][0]().eval()


def ours(net: str, base: nn.Module | None = None, **settings: Any) -> PeftModel:
    """A ShareLoRA of rank 4 on a network."""
    base = built(net) if base is None else base
    torch.manual_seed(7)
    options = {"r": 4, "lora_alpha": 6, "target_modules": NETS[net][1], "share": "none", **settings}
    return get_peft_model(base, ShareLoraConfig(**options)).eval()


def theirs(net: str, base: nn.Module | None = None, **settings: Any) -> PeftModel:
    """A LoRA of PEFT with the same settings."""
    base = built(net) if base is None else base
    torch.manual_seed(7)
    return get_peft_model(
        base, LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": NETS[net][1], **settings})
    ).eval()


def bank(model: PeftModel, adapter: str = "default") -> nn.ParameterDict:
    """All matrices of an adapter by name."""
    return model.base_model.lora_bank[adapter]


def places(model: PeftModel, like: PeftModel, adapter: str = "default") -> list[tuple[str, nn.Parameter]]:
    """Every matrix that a LoRA of PEFT has: name of the one that ours uses there, and PEFT's parameter."""
    found = []
    plan = like.base_model.plans[adapter]
    for entry in plan.entries:
        whole, _, inner = entry.site.path.rpartition(".")
        path = f"{whole}.base_layer.{inner}" if plan.owner(entry.site.path) == whole else entry.site.path
        layer = model.base_model.model.get_submodule(path)
        for side, name in (("A", entry.a), ("B", entry.b)):
            embedding = getattr(layer, f"lora_embedding_{side}")
            found.append(
                (name, embedding[adapter] if adapter in embedding else getattr(layer, f"lora_{side}")[adapter].weight)
            )
    return found


def copy_matrices(model: PeftModel, like: PeftModel, adapter: str = "default") -> PeftModel:
    """Give a LoRA of PEFT the matrices that ours uses in each place, and DoRA's magnitudes."""
    for name, matrix in places(model, like, adapter):
        matrix.data.copy_(bank(like, adapter)[name].data)
    magnitudes = {name: value for name, value in like.named_parameters() if "magnitude" in name}
    for name, value in model.named_parameters():
        if "magnitude" in name:
            value.data.copy_(magnitudes[name].data)
    return model


def shaken(model: PeftModel, seed: int = 5) -> PeftModel:
    """Give every matrix a value, those included that start at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in sorted(model.named_parameters()):
        if "lora_" in name:
            value.data.add_(torch.randn(value.shape, generator=generator) * 0.3)
    return model
