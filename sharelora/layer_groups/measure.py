"""The states of a model's layers at the last token of each text, and how similar they are on average."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from sharelora.layer_groups.similarity import ANGULAR, COSINE, MEASURES, Rows, Similarity, shape_of
from sharelora.models.known import is_encoder, model_config
from sharelora.models.load import load_base
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError
from sharelora.tuner.finite import require_finite

# Digits of the results: beyond them the order of summation decides, and a saved file must give the groups that a new
# measurement gives.
_DIGITS = 6


def compare_layers(
    model: Any, batches: Iterable[dict[str, Tensor]], sample: Any, name: str, texts: int, max_length: int
) -> Similarity:
    """Average the similarities of a model's layers over batches of any kind.

    Args:
        model: of transformers.
        batches: as the model takes them.
        sample: where they are from; its `origin` and `digest` are recorded.
        name: the model's, or its folder.
        texts: how many items of the sample the batches hold.
        max_length: most tokens of an item.

    Raises:
        UserError: a model without a stack of layers.
    """
    between, through = average(layer_states(model, batches)).results()
    return Similarity(
        model=model_name(name),
        shape=shape_of(model.config),
        sample=sample.origin,
        digest=sample.digest,
        texts=texts,
        max_length=max_length,
        between=between,
        through=through,
    )


def longest_first(lengths: Sequence[int], size: int, progress: Progress) -> Iterator[list[int]]:
    """Yield the indices of rows in batches of similar length.

    Args:
        lengths: tokens of each row.
        size: rows per batch.
        progress: called after every batch.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])  # what takes most memory comes first
    tokens = 0
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        yield batch
        tokens += sum(lengths[index] for index in batch)
        progress(first + len(batch), len(order), tokens)


def model_name(source: str) -> str:
    """Return a model's name without its owner: the last part of a folder or hub id, also for the hub's cache."""
    folder = Path(source)
    # .../models--owner--name/snapshots/commit
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name


def load_any(source: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """Load a model whose layers can be compared: a language model, or an encoder without its head.

    Args:
        source: folder or hub id.
        trust_remote_code: see `load_base`.
        options: of `load_base`.

    Raises:
        UserError: see `load_base`.
    """
    auto_class = AutoModel if is_encoder(model_config(source, trust_remote_code)) else AutoModelForCausalLM
    return load_base(source, trust_remote_code=trust_remote_code, auto_class=auto_class, **options)


def find_layers(model: Any) -> list[nn.Module]:
    """Return the layers of a transformer, first to last; of a vision-language model those of its language model.

    Raises:
        UserError: no module list, or more than one, has as many modules as the configuration says.
    """
    count = int(model.config.get_text_config().num_hidden_layers)
    stacks = {
        name: list(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and "vision" not in name
    }
    if len(stacks) != 1:
        raise UserError(
            f"found {len(stacks)} lists of {count} layers in {type(model).__name__} ({', '.join(stacks) or 'none'}); "
            "need a model with one stack of layers; give another model"
        )
    return next(iter(stacks.values()))


class LastTokens:
    """Records what goes into layers and comes out of them at one token of each row: L vectors a row.

    Args:
        layers: in the order in which they run.

    Attributes:
        at: (B,), the position of that token in each row; set before a forward pass.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers
        self.at: Tensor | None = None
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Record until the end of the block."""
        hooks = [layer.register_forward_hook(self._record(n), with_kwargs=True) for n, layer in enumerate(self.layers)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _record(self, number: int) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self.inputs[number] = self._pick(args[0] if args else kwargs["hidden_states"])
            self.outputs[number] = self._pick(output[0] if isinstance(output, tuple) else output)

        return hook

    def _pick(self, hidden: Tensor) -> Tensor:
        """Copy the vectors of the wanted tokens, (B, T, D) -> (B, D), to the CPU, in full precision."""
        assert self.at is not None, "set before the forward pass"
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return hidden[rows, self.at.to(hidden.device)].float().cpu()

    def states(self) -> tuple[Tensor, Tensor]:
        """Return what went into the layers and what came out of them, (L, B, D) each, and forget it."""
        before, after = (
            torch.stack([states[n] for n in range(len(self.layers))]) for states in (self.inputs, self.outputs)
        )
        self.inputs, self.outputs = {}, {}
        return before, after


def last_real(attention_mask: Tensor) -> Tensor:
    """Return the position of each row's last token that is not padding, on whichever side the padding is.

    Args:
        attention_mask: (B, T), 1 for tokens.

    Returns:
        (B,)
    """
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.long() * (positions + 1)).argmax(1)


def layer_states(model: Any, batches: Iterable[Mapping[str, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Run a model without its head over batches, and yield for each what went into and came out of every layer.

    Args:
        model: of transformers, on any devices, quantised or not.
        batches: inputs of the model, with `attention_mask`; images are possible.

    Yields:
        (L, B, D) twice: the last real token of every row, before and after each layer.

    Raises:
        UserError: a layer gives NaN or infinite numbers, of which no similarity can be made.
    """
    recorder = LastTokens(find_layers(model))
    embedding = model.get_input_embeddings()
    device: torch.device = embedding.weight.device
    if device.type == "meta":  # offloaded weights wait elsewhere until they are needed; their hook knows where they go
        device = torch.device(embedding._hf_hook.execution_device)
    body = getattr(model, "base_model", model)  # the head's logits of all tokens would be the largest thing here
    # Keys and values, which nothing reads again, would be the next. A vision-language model passes the option on.
    caches = "use_cache" in inspect.signature(body.forward).parameters or hasattr(body, "language_model")
    options = {"use_cache": False} if caches else {}
    with recorder.watched(), torch.inference_mode():
        for batch in batches:
            recorder.at = last_real(batch["attention_mask"])
            body(**{name: value.to(device) for name, value in batch.items()}, **options)
            before, after = recorder.states()
            layers = ((f"layer {number}", states) for number, states in enumerate(after))
            require_finite(layers, "what the layers of the model give", "check its weights, or give --dtype fp32")
            yield before, after


class Means:
    """Mean similarities over texts, summed batch by batch: memory for L x L numbers, however many texts there are.

    Vectors come in full precision; cosines are computed and summed in double precision, since arccos is steep near 1.
    """

    def __init__(self) -> None:
        self.texts = 0
        self.between: dict[str, Tensor] = {}
        self.through: dict[str, Tensor] = {}

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add a batch.

        Args:
            inputs: (L, B, D), what went into the layers.
            outputs: (L, B, D), what came out of them.
        """
        before, after = (nn.functional.normalize(states.double(), dim=-1) for states in (inputs, outputs))
        pairs = _by_measure(torch.einsum("ibd,jbd->bij", after, after))
        steps = _by_measure((before * after).sum(-1).T)
        for name in MEASURES:
            self.between[name] = self.between.get(name, torch.zeros(())) + pairs[name].sum(0)
            self.through[name] = self.through.get(name, torch.zeros(())) + steps[name].sum(0)
        self.texts += outputs.shape[1]

    def results(self) -> tuple[dict[str, Rows], dict[str, tuple[float, ...]]]:
        """Return for each measure the mean between each two layers' outputs, and between a layer's input and output."""
        return (
            {name: _symmetric(total / self.texts) for name, total in self.between.items()},
            {
                name: tuple(round(value, _DIGITS) for value in (total / self.texts).tolist())
                for name, total in self.through.items()
            },
        )


def _by_measure(cosine: Tensor) -> dict[str, Tensor]:
    cosine = cosine.clamp(-1, 1)
    return {COSINE: cosine, ANGULAR: 1 - cosine.acos() / math.pi}


def _symmetric(mean: Tensor) -> Rows:
    """Return plain numbers, equal on both sides of the diagonal and 1 on it."""
    mean = (mean + mean.T) / 2
    mean.fill_diagonal_(1)
    return tuple(tuple(round(value, _DIGITS) for value in row) for row in mean.tolist())


def average(states: Iterable[tuple[Tensor, Tensor]]) -> Means:
    """Sum the similarities of all batches, each (L, B, D) before and after the layers."""
    means = Means()
    for inputs, outputs in states:
        means.add(inputs, outputs)
    return means


def reference(inputs: Tensor, outputs: Tensor) -> tuple[dict[str, list[list[float]]], dict[str, list[float]]]:
    """Compute what `Means` computes by the formulas, one text and one pair of layers after another; for tests.

    Args:
        inputs: (L, N, D), what went into the layers, of all texts.
        outputs: (L, N, D), what came out of them.
    """
    layers, texts = outputs.shape[:2]
    between = {name: [[0.0] * layers for _ in range(layers)] for name in MEASURES}
    through = {name: [0.0] * layers for name in MEASURES}
    for text in range(texts):
        for i in range(layers):
            for name, value in _pair(inputs[i, text], outputs[i, text]).items():
                through[name][i] += value / texts
            for j in range(layers):
                for name, value in _pair(outputs[i, text], outputs[j, text]).items():
                    between[name][i][j] += value / texts
    return between, through


def _pair(one: Tensor, other: Tensor) -> dict[str, float]:
    one, other = one.double(), other.double()
    cosine = min(1.0, max(-1.0, float(one @ other / (one.norm() * other.norm()))))
    return {COSINE: cosine, ANGULAR: 1 - math.acos(cosine) / math.pi}
