"""Measure how similar the layers of a model are on a sample of texts."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharelora.layer_groups.sample import Sample
from sharelora.layer_groups.similarity import ANGULAR, COSINE, MEASURES, Rows, Similarity, shape_of
from sharelora.models.encoders import max_input_length
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)


MAX_LENGTH = 512
# With one token the last is the first, whose state hardly depends on the text.
_LEAST_TOKENS = 2

Ids = list[int]


def encode(tokenizer: Any, sample: Sample, max_length: int) -> list[Ids]:
    """Tokenise texts with the tokenizer's own special tokens; what is too long is cut at its end, and counted.

    Args:
        tokenizer: the model's.
        sample: the texts.
        max_length: most tokens of a text, special ones included.

    Raises:
        UserError: no text has two tokens beside special ones.
    """
    rows = tokenizer(list(sample.texts), return_special_tokens_mask=True, verbose=False)
    own = [mask.count(0) for mask in rows["special_tokens_mask"]]
    kept = [ids for ids, count in zip(rows["input_ids"], own, strict=True) if count >= _LEAST_TOKENS]
    if not kept:
        raise UserError(
            f"found {len(own)} texts in {sample.origin}, the longest with {max(own)} token; need texts of at least "
            f"{_LEAST_TOKENS}; give another sample"
        )
    cut = sum(len(ids) > max_length for ids in kept)
    if len(kept) < len(own):
        logger.info("note: %d of %d texts have fewer than %d tokens", len(own) - len(kept), len(own), _LEAST_TOKENS)
    if cut:
        logger.info("note: %d of %d texts are cut to %d tokens", cut, len(kept), max_length)
    return [ids[:max_length] for ids in kept]


def batches(rows: Sequence[Ids], size: int, padding: int, progress: Progress) -> Iterator[dict[str, Tensor]]:
    """Give texts of similar length together, filled up at their ends.

    Args:
        rows: tokens of each text.
        size: texts at once.
        padding: token to fill up with; it is masked.
        progress: told after every batch.
    """
    ordered = sorted(rows, key=len, reverse=True)  # what takes most memory comes first
    tokens = 0
    for first in range(0, len(ordered), size):
        chunk = ordered[first : first + size]
        longest = len(chunk[0])
        ids = [row + [padding] * (longest - len(row)) for row in chunk]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in chunk]
        yield {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        tokens += sum(map(len, chunk))
        progress(first + len(chunk), len(ordered), tokens)


def measure(
    model: Any,
    tokenizer: Any,
    sample: Sample,
    name: str,
    max_length: int = MAX_LENGTH,
    batch_size: int = 8,
) -> Similarity:
    """Measure a model.

    Args:
        model: of transformers, on any devices, quantised or not.
        tokenizer: its own.
        sample: the texts.
        name: the model's, or its folder; see `model_name`.
        max_length: most tokens of a text.
        batch_size: texts at once; the result does not depend on it beyond rounding.

    Raises:
        UserError: texts of one token, or a model without a stack of layers.
    """
    limits = [max_length, max_input_length(model.config)]
    rows = encode(tokenizer, sample, min(limit for limit in limits if limit is not None))
    fed = batches(rows, batch_size, tokenizer.pad_token_id, Progress("similarity"))
    return compare_layers(model, fed, sample, name, len(rows), max_length)


def compare_layers(
    model: Any, fed: Iterable[dict[str, Tensor]], sample: Any, name: str, texts: int, max_length: int
) -> Similarity:
    """Average the similarities of a model's layers over batches of any kind.

    Args:
        model: of transformers.
        fed: the batches, as the model takes them.
        sample: what they were made of: its `origin` and `digest` are kept.
        name: the model's, or its folder.
        texts: how many parts of the sample the batches hold.
        max_length: most tokens of a part.

    Raises:
        UserError: a model without a stack of layers.
    """
    between, through = average(layer_states(model, fed)).results()
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


def model_name(place: str) -> str:
    """Return a model's name without its owner: the last part of a folder or hub id, also for the hub's cache."""
    folder = Path(place)
    # .../models--owner--name/snapshots/commit
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name


def load_any(place: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """Load a model whose layers can be compared: a language model, or an encoder without its head.

    Args:
        place: folder or hub id.
        trust_remote_code: see `load_base`, as the others.
        options: of `load_base`.

    Raises:
        UserError: see `load_base`.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    from sharelora.models.known import is_encoder, model_config
    from sharelora.models.load import load_base

    encoder = is_encoder(model_config(place, trust_remote_code))
    auto_class = AutoModel if encoder else AutoModelForCausalLM
    return load_base(place, trust_remote_code=trust_remote_code, auto_class=auto_class, **options)


# What each layer of a model makes of the last token of every text.


def find_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformer, first to last; of a model that also sees, those of its language model.

    Raises:
        UserError: there is no list of as many modules as the configuration says, or more than one.
    """
    count = _count(model)
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


def _count(model: Any) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


class LastTokens:
    """While its block runs, keeps what the layers do with one token of each row: memory for L vectors a row.

    Args:
        layers: in the order in which they run.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers
        self.at: Tensor | None = None
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the layers until the end of the block."""
        hooks = [layer.register_forward_hook(self._keep(n), with_kwargs=True) for n, layer in enumerate(self.layers)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, number: int) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self.inputs[number] = self._pick(args[0] if args else kwargs["hidden_states"])
            self.outputs[number] = self._pick(output[0] if isinstance(output, tuple) else output)

        return hook

    def _pick(self, hidden: Tensor) -> Tensor:
        """Take the vectors of the wanted tokens, (B, T, D) -> (B, D), onto the CPU, in full precision."""
        assert self.at is not None, "set before the forward pass"
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return hidden[rows, self.at.to(hidden.device)].float().cpu()

    def states(self) -> tuple[Tensor, Tensor]:
        """Return what went into the layers and what came out of them, (L, B, D) each, and forget it."""
        found = [torch.stack([kept[n] for n in range(len(self.layers))]) for kept in (self.inputs, self.outputs)]
        self.inputs, self.outputs = {}, {}
        return found[0], found[1]


def last_real(attention_mask: Tensor) -> Tensor:
    """Return the place of each row's last token that is no padding, wherever the padding is.

    Args:
        attention_mask: (B, T), 1 for tokens.

    Returns:
        (B,)
    """
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.long() * (places + 1)).argmax(1)


def layer_states(model: Any, batches: Iterable[Mapping[str, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Run a model without its head over batches, and give for each what went into and came out of every layer.

    Args:
        model: of transformers, on any devices, quantised or not.
        batches: inputs of the model, `attention_mask` among them; images may be, too.

    Yields:
        (L, B, D) twice: the last real token of every row, before and behind each layer.
    """
    seen, device = LastTokens(find_layers(model)), _input_device(model)
    body = getattr(model, "base_model", model)  # the head's logits of all tokens would be the largest thing here
    # Keys and values, which nothing reads again, would be the next. A model that sees hands it to its language model.
    caches = "use_cache" in inspect.signature(body.forward).parameters or hasattr(body, "language_model")
    options = {"use_cache": False} if caches else {}
    with seen.watched(), torch.inference_mode():
        for batch in batches:
            seen.at = last_real(batch["attention_mask"])
            body(**{name: value.to(device) for name, value in batch.items()}, **options)
            yield seen.states()


def _input_device(model: Any) -> torch.device:
    """Return where a model takes its input; where weights wait elsewhere until they are needed, their hook knows."""
    embedding = model.get_input_embeddings()
    device: torch.device = embedding.weight.device
    return torch.device(embedding._hf_hook.execution_device) if device.type == "meta" else device


# Means over texts of how similar the states of layers are.


# Digits of the results: beyond them the order of sums decides, and a saved file must give the groups that a fresh
# measurement gives.
_DIGITS = 6


class Means:
    """Adds up similarities batch by batch: memory for L x L numbers, however many texts there are.

    Vectors come in full precision; cosines are computed and added in double precision, since arccos is steep near 1.
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
        before, after = (torch.nn.functional.normalize(states.double(), dim=-1) for states in (inputs, outputs))
        pairs = _measured(torch.einsum("ibd,jbd->bij", after, after))
        steps = _measured((before * after).sum(-1).T)
        for name in MEASURES:
            self.between[name] = self.between.get(name, torch.zeros(())) + pairs[name].sum(0)
            self.through[name] = self.through.get(name, torch.zeros(())) + steps[name].sum(0)
        self.texts += outputs.shape[1]

    def results(self) -> tuple[dict[str, Rows], dict[str, tuple[float, ...]]]:
        """Return for each measure the mean between each two layers' outputs, and between a layer's input and output."""
        between = {name: self._mean(total) for name, total in self.between.items()}
        through = {name: self._mean(total) for name, total in self.through.items()}
        return (
            {name: _symmetric(mean) for name, mean in between.items()},
            {name: tuple(round(value, _DIGITS) for value in mean.tolist()) for name, mean in through.items()},
        )

    def _mean(self, total: Tensor) -> Tensor:
        return total / self.texts


def _measured(cosine: Tensor) -> dict[str, Tensor]:
    cosine = cosine.clamp(-1, 1)
    return {COSINE: cosine, ANGULAR: 1 - cosine.acos() / math.pi}


def _symmetric(mean: Tensor) -> Rows:
    """Return plain numbers, equal on both sides of the diagonal and 1 on it."""
    mean = (mean + mean.T) / 2
    mean.fill_diagonal_(1)
    return tuple(tuple(round(value, _DIGITS) for value in row) for row in mean.tolist())


def average(states: Iterable[tuple[Tensor, Tensor]]) -> Means:
    """Add up the states of all batches, each (L, B, D) before and behind the layers."""
    means = Means()
    for inputs, outputs in states:
        means.add(inputs, outputs)
    return means


def reference(inputs: Tensor, outputs: Tensor) -> tuple[dict[str, list[list[float]]], dict[str, list[float]]]:
    """Compute what `Means` computes as the formulas say it, one text and one pair of layers after another.

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
