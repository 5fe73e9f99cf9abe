"""Activation memory of a transformer with adapters, from its shapes.

What is counted is what autograd keeps for the backward pass when the base is frozen: a frozen linear layer keeps
nothing, so the norms, the attention, the activation function and the adapters remain. A test counts the tensors that
autograd really saves and compares.

Letters: N = B * T tokens, h hidden size, a attention width (heads * head size), k key and value width, f width of the
MLP, V vocabulary, s bytes per element.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from sharelora.plan import Entry, SharingPlan

_GATES = ("gate_proj", "gate_up_proj", "w1")
# Modules whose input is the attention's output, which attention itself keeps.
_AFTER_ATTENTION = ("o_proj", "out_proj", "attn.c_proj", "attention.output.dense")
# Modules that read one input and keep it once (`sharelora.layers`).
_SAME_INPUT = ({"q_proj", "k_proj", "v_proj"}, {"query", "key", "value"}, {"gate_proj", "up_proj"})
# GPT-2's GELU is written out in elementary steps, each of which keeps a tensor; torch's own keeps its input.
_KEPT_BY_ACTIVATION = {"gelu_new": 4}


@dataclass(frozen=True)
class Shape:
    """The numbers of a transformer that decide its activations.

    Attributes:
        gated: RMSNorm and a gated MLP (LLaMA and its kin); else LayerNorm and a plain MLP (GPT-2, RoBERTa).
        kept: tensors of width f that the activation function keeps per token.
        dropout: the base's own dropout.
        attention_dropout: that of the attention's weights.
        vocab: V of a language model, 0 for a classifier, whose few logits do not count.
    """

    layers: int
    hidden: int
    heads: int
    attention: int
    key_value: int
    mlp: int
    vocab: int
    gated: bool
    kept: int
    dropout: float
    attention_dropout: float


def _first(config: Any, names: Iterable[str], default: Any) -> Any:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if value is not None), default)


def shape_of(model: nn.Module) -> Shape:
    """Read the shape from a model's configuration; the model may be on the meta device."""
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    hidden, heads = config.hidden_size, config.num_attention_heads
    head = _first(config, ["head_dim"], hidden // heads)
    names = {path.rpartition(".")[2] for path, _ in model.named_modules()}
    return Shape(
        layers=config.num_hidden_layers,
        hidden=hidden,
        heads=heads,
        attention=head * heads,
        key_value=head * _first(config, ["num_key_value_heads"], heads),
        mlp=_first(config, ["intermediate_size", "n_inner"], 4 * hidden),
        vocab=config.vocab_size if getattr(model, "get_output_embeddings", lambda: None)() is not None else 0,
        gated=any(gate in names for gate in _GATES),
        kept=_KEPT_BY_ACTIVATION.get(_first(config, ["activation_function", "hidden_act"], ""), 1),
        dropout=_first(config, ["hidden_dropout_prob", "resid_pdrop"], 0.0),
        attention_dropout=_first(config, ["attention_probs_dropout_prob", "attn_pdrop", "attention_dropout"], 0.0),
    )


@dataclass(frozen=True)
class Load:
    """What goes through the model at once.

    Attributes:
        batch: B, examples.
        tokens: T per example.
        bytes: s, of an activation: 2 for bf16 and fp16, 4 for fp32.
        lora_dropout: dropout of the adapters' inputs.
        device: `cpu` or `cuda`.
    """

    batch: int
    tokens: int
    bytes: int
    lora_dropout: float = 0.0
    device: str = "cpu"

    @property
    def count(self) -> int:
        """N, tokens of the batch."""
        return self.batch * self.tokens


def base_layer(shape: Shape, load: Load) -> int:
    """Return what one layer keeps without adapters, in bytes."""
    s, h = load.bytes, shape.hidden
    # RMSNorm computes in fp32 and keeps its input so; LayerNorm keeps its input as it is.
    norms = 2 * h * (4 if shape.gated else s)
    # With padding, grouped keys and values are repeated to full width.
    key_value = shape.key_value if load.batch == 1 else shape.attention
    attention = (2 * shape.attention + 2 * key_value) * s + 4 * shape.heads
    if shape.attention_dropout and load.device == "cpu":
        # The CPU has no fused attention with dropout: scores, their softmax and the mask are kept, each (heads, T, T).
        attention += 3 * shape.heads * load.tokens * s
    mlp = (3 if shape.gated else shape.kept) * shape.mlp * s
    dropped = 2 * h * (s if load.device == "cpu" else 1) if shape.dropout else 0
    return load.count * (norms + attention + mlp + dropped)


def _inputs(entries: Iterable[Entry]) -> list[tuple[str, int, int]]:
    """Return (module's kind, D_in, modules that share it) for every distinct input that adapters of a layer read."""
    found: dict[str, tuple[str, int, int]] = {}
    for path, entry in {entry.site.path: entry for entry in entries}.items():
        parent, _, name = path.rpartition(".")
        family = next((i for i, names in enumerate(_SAME_INPUT) if name in names), None)
        key = path if family is None else f"{parent}/{family}"
        found[key] = (entry.site.kind, entry.site.d_in, found.get(key, ("", 0, 0))[2] + 1)
    return list(found.values())


def adapter_layer(entries: Iterable[Entry], shape: Shape, load: Load) -> int:
    """Return what the adapters of one layer keep, in bytes: inputs, masks, A x, and matrices cast or stacked."""
    entries, s = list(entries), load.bytes
    kept = sum(entry.r * s for entry in entries)
    for kind, d_in, _ in _inputs(entries):
        if load.lora_dropout:
            # What is left of the input, and the mask: of the input's dtype on a CPU, bool elsewhere.
            kept += d_in * (2 * s if load.device == "cpu" else s + 1)
        elif not kind.endswith(_AFTER_ATTENTION):
            kept += d_in * s
    # fp32 matrices are cast to the activations' dtype; As of one input are stacked.
    cast = sum(entry.r * (entry.site.d_in + entry.site.d_out) * s for entry in entries) if s != 4 else 0
    return load.count * kept + cast


def _by_layer(plan: SharingPlan) -> list[list[Entry]]:
    layers: dict[int | None, list[Entry]] = defaultdict(list)
    for entry in plan.entries:
        layers[entry.site.layer].append(entry)
    return list(layers.values())


def backward_transient(shape: Shape, load: Load) -> int:
    """Return the gradients of activations that exist at once while one layer is passed backward, in bytes."""
    return load.count * load.bytes * (3 * shape.mlp + 2 * shape.hidden)


def logits(shape: Shape, load: Load) -> int:
    """Return the most that logits and loss need, in bytes: 12 per logit, measured for fp32 and for bf16.

    Of an fp32 model these are the logits, their log-softmax and the gradient, 4 bytes each; of a 16-bit one the logits
    and their gradient, 2 each, beside the fp32 log-softmax and its gradient.
    """
    return load.count * shape.vocab * 12


def peak(shape: Shape, plan: SharingPlan, load: Load, checkpointing: bool) -> int:
    """Return the most activation memory during one forward and backward pass, in bytes.

    Without checkpointing all layers' activations, from the first adapted layer on, stand beside the logits. With it
    only the layers' inputs do, and one layer at a time is computed again after the logits are gone.
    """
    layers = [adapter_layer(entries, shape, load) for entries in _by_layer(plan)]
    one, first = base_layer(shape, load), min(entry.site.layer or 0 for entry in plan.entries)
    last, back = logits(shape, load), backward_transient(shape, load)
    if not checkpointing:
        return (shape.layers - first) * one + sum(layers) + max(last, back)
    inputs = shape.layers * shape.hidden * load.count * load.bytes
    return inputs + max(last, one + max(layers) + back)
