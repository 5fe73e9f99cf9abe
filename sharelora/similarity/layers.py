"""What each layer of a model makes of the last token of every text."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sharelora.errors import UserError


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
