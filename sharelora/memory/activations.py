"""Activation memory of a transformer with adapters, from its shapes.

What is counted is what autograd keeps for the backward pass when the base is frozen: a frozen linear layer keeps
nothing, so the norms, the attention, the activation function and the adapters remain. A test counts the tensors that
autograd really saves and compares.

Letters: N = B * T tokens, h hidden size, a attention width (heads * head size), k key and value width, f width of the
MLP, V vocabulary, s bytes per element.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharelora.models.chunks import chunk_rows
from sharelora.plan.plan import Entry, SharingPlan
from sharelora.plan.site import Site, input_of

if TYPE_CHECKING:
    from torch import nn

_GATES = ("gate_proj", "gate_up_proj", "w1")
# Modules whose input is the attention's output, which attention itself keeps.
_AFTER_ATTENTION = ("o_proj", "out_proj", "attn.c_proj", "attention.output.dense")
# GPT-2's GELU is written out in elementary steps, each of which keeps a tensor; torch's own keeps its input.
_KEPT_BY_ACTIVATION = {"gelu_new": 4}


@dataclass(frozen=True)
class Shape:
    """The numbers of a transformer that decide its activations.

    Attributes:
        gated: RMSNorm and a gated MLP (LLaMA and its kin); else LayerNorm and a plain MLP (GPT-2, RoBERTa).
        activation_tensors: tensors of width f that the activation function keeps per token.
        dropout: the base's own dropout.
        attention_dropout: that of the attention's weights.
        recurrent: fp32 numbers that a recurrent layer (Mamba) keeps per token in place of attention: its states.
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
    activation_tensors: int
    dropout: float
    attention_dropout: float
    recurrent: int = 0


# What a Mamba layer keeps where torch computes it, measured: of each of its states the decay, the input and the sum,
# and tensors of its inner width. Its own kernels for GPUs keep less.
_STATES, _INNER = 3, 10


@dataclass(frozen=True)
class Heads:
    """The attention of a model; all are 0 for a model without any.

    Attributes:
        count: heads of a layer.
        key_value: those of them with keys and values of their own.
        size: numbers of a head.
    """

    count: int
    key_value: int
    size: int


def heads_of(config: Any) -> Heads:
    """Read the attention from the configuration of a language model; where layers differ, the widest counts."""
    layers = [config, *(getattr(config, "per_layer_config", None) or ())]
    count = max(_number(layer, "num_attention_heads") for layer in layers)
    if not count:
        return Heads(0, 0, 0)
    key_value = max(_number(layer, "num_key_value_heads") for layer in layers) or count
    return Heads(count, key_value, _number(config, "head_dim") or config.hidden_size // count)


def _number(config: Any, name: str) -> int:
    try:
        value = getattr(config, name, None)
    except RuntimeError:  # it differs from layer to layer
        return 0
    return value if isinstance(value, int) else 0


def _first(config: Any, names: Iterable[str], default: Any) -> Any:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if value is not None), default)


def shape_of(model: nn.Module) -> Shape:
    """Read the shape from a model's configuration; the model may be on the meta device."""
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    hidden, heads = config.hidden_size, heads_of(config)
    mlp = _first(config, ["intermediate_size", "n_inner"], 0)
    mlp = mlp or (4 if heads.count else _first(config, ["expand"], 4)) * hidden
    kept = _KEPT_BY_ACTIVATION.get(_first(config, ["activation_function", "hidden_act"], ""), 1)
    names = {path.rpartition(".")[2] for path, _ in model.named_modules()}
    return Shape(
        layers=config.num_hidden_layers,
        hidden=hidden,
        heads=heads.count,
        attention=heads.size * heads.count,
        key_value=heads.size * heads.key_value,
        mlp=mlp,
        vocab=config.vocab_size if getattr(model, "get_output_embeddings", lambda: None)() is not None else 0,
        gated=any(gate in names for gate in _GATES),
        activation_tensors=kept if heads.count else _INNER,
        dropout=_first(config, ["hidden_dropout_prob", "resid_pdrop"], 0.0),
        attention_dropout=_first(config, ["attention_probs_dropout_prob", "attn_pdrop", "attention_dropout"], 0.0),
        recurrent=0 if heads.count else _STATES * mlp * _number(config, "state_size"),
    )


@dataclass(frozen=True)
class Workload:
    """What one forward pass computes: its batch, and in which precision.

    Attributes:
        batch: B, examples.
        tokens: T per example.
        bytes: s, of an activation: 2 for bf16 and fp16, 4 for fp32.
        lora_dropout: dropout of the adapters' inputs.
        one_mask: whether modules that read the same input share a dropout mask.
        device: `cpu` or `cuda`.
        padded: whether the rows of a batch differ in length, so that attention takes a mask.
    """

    batch: int
    tokens: int
    bytes: int
    lora_dropout: float = 0.0
    one_mask: bool = False
    device: str = "cpu"
    padded: bool = False

    @property
    def count(self) -> int:
        """N, tokens of the batch."""
        return self.batch * self.tokens


def base_layer(shape: Shape, load: Workload) -> int:
    """Return what one layer keeps without adapters, in bytes."""
    s, h = load.bytes, shape.hidden
    # RMSNorm computes in fp32 and keeps its input so; LayerNorm keeps its input as it is.
    norms = 2 * h * (4 if shape.gated else s)
    # With padding, grouped keys and values are repeated to full width, and each layer keeps the mask as numbers.
    key_value, mask = (shape.attention, load.tokens) if load.padded else (shape.key_value, 0)
    attention = (2 * shape.attention + 2 * key_value + mask) * s + 4 * shape.heads
    if shape.attention_dropout and load.device == "cpu":
        # The CPU has no fused attention with dropout: scores, their softmax and the mask are kept, each (heads, T, T).
        attention += 3 * shape.heads * load.tokens * s
    mlp = (3 if shape.gated else shape.activation_tensors) * shape.mlp * s
    dropped = 2 * h * (s if load.device == "cpu" else 1) if shape.dropout else 0
    return load.count * (norms + attention + mlp + dropped + 4 * shape.recurrent)


def _readers(sites: Iterable[Site]) -> dict[tuple[str, ...], list[Site]]:
    """Group the modules of a layer by the input that they read, which adapters of a group keep once."""
    groups: dict[tuple[str, ...], list[Site]] = defaultdict(list)
    # The slices of a fused module are several sites of one path.
    for site in {site.path: site for site in sites}.values():
        groups[input_of(site.path, site.d_in)].append(site)
    return groups


def adapter_layer(entries: Iterable[Entry], shape: Shape, load: Workload) -> int:
    """Return what the adapters of one layer keep, in bytes: inputs, masks, A x, and matrices cast or stacked."""
    entries, s = list(entries), load.bytes
    per_token = sum(entry.r * s for entry in entries)
    # fp32 matrices are cast to the activations' dtype.
    matrices = sum(entry.r * entry.site.d_out * s for entry in entries) if s != 4 else 0
    # What an embedding reads are the tokens alone, and it drops none.
    for sites in _readers(entry.site for entry in entries if not entry.site.embedding).values():
        d_in, paths = sites[0].d_in, {site.path for site in sites}
        if load.lora_dropout:
            # Masks are of the input's dtype on a CPU, bool elsewhere.
            masks = 1 if load.one_mask else len(paths)
            per_token += masks * d_in * (s if load.device == "cpu" else 1)
        if not sites[0].kind.endswith(_AFTER_ATTENTION):
            per_token += d_in * s
        # Modules with a mask each have a copy of their A each, even of one that they share.
        apart = bool(load.lora_dropout) and not load.one_mask
        own = [entry for entry in entries if entry.site.path in paths]
        ranks = {(entry.a, entry.site.path if apart else ""): entry.r for entry in own}
        # The different As of modules that are computed together are stacked, which is a copy too.
        if s != 4 or (not apart and len(ranks) > 1 < len(paths)):
            matrices += sum(ranks.values()) * d_in * s
    return load.count * per_token + matrices


def inputs_of_8_bit_layers(sites: Iterable[Site], entries: Iterable[Entry], load: Workload) -> int:
    """Return the inputs that only the 8-bit layers of one layer of the model keep, in bytes.

    Unlike other frozen layers they keep what they read. An adapter keeps the very same tensor.
    """
    adapted = set(_readers(entry.site for entry in entries))
    alone = [readers[0] for key, readers in _readers(sites).items() if key not in adapted]
    return load.count * load.bytes * sum(site.d_in for site in alone if not site.kind.endswith(_AFTER_ATTENTION))


def inputs_despite_checkpointing(sites: Iterable[Site], load: Workload) -> int:
    """Return the inputs of 8-bit layers that checkpointing does not free, in bytes.

    bitsandbytes keeps them as attributes of its autograd function, and checkpointing replaces saved tensors alone.
    """
    return load.count * load.bytes * sum(readers[0].d_in for readers in _readers(sites).values())


def backward_transient(shape: Shape, load: Workload) -> int:
    """Return the gradients of activations that coexist in the backward pass of one layer, in bytes.

    They peak in the MLP: those of the two factors of its product, whose own activations are freed only afterwards, and
    that of the layer's output, with this output itself, which was computed again.
    """
    return load.count * load.bytes * (2 * shape.mlp + 2 * shape.hidden)


def _chunk(shape: Shape, load: Workload) -> int:
    """Return what the logits that exist at once need, in bytes: never those of the whole batch.

    They and the fp32 log-softmax (4) coexist; a 16-bit model has its logits (2) and their fp32 copy (4) besides.
    """
    rows = min(load.count, chunk_rows(shape.vocab)) if shape.vocab else 0
    return rows * shape.vocab * (8 if load.bytes == 4 else 10)


def output_head(shape: Shape, load: Workload) -> int:
    """Return the most that the last norm, the head and the loss need, in bytes, if all positions have a target.

    The hidden states of the targets, their gradient, and the logits of some of them (`sharelora.models.head`).
    """
    norm = shape.hidden * (4 if shape.gated else load.bytes)
    return load.count * ((2 * shape.hidden * load.bytes if shape.vocab else 0) + norm) + _chunk(shape, load)


def evaluation(shape: Shape, load: Workload) -> int:
    """Return the most that a forward pass without gradients needs, in bytes: a chunk of logits, or one layer."""
    layer = load.count * load.bytes * (2 * shape.hidden + 3 * shape.mlp)
    return max(2 * load.count * shape.hidden * load.bytes + _chunk(shape, load), layer)


def peak(shape: Shape, plan: SharingPlan, load: Workload, checkpointing: bool, sites: Sequence[Site] = ()) -> int:
    """Return the most activation memory during one forward and backward pass, in bytes.

    Without checkpointing the activations of all layers, from the first adapted one on, coexist with those of the head.
    With it only the inputs of the layers do (and those of 8-bit layers), and one layer at a time is computed again
    after the head's are gone.

    Args:
        shape, plan, load: the model, its adapters, and the batch.
        checkpointing: whether activations are computed again.
        sites: the 8-bit layers.
    """
    first = min(entry.site.layer or 0 for entry in plan.entries)
    quantised: dict[int | None, list[Site]] = defaultdict(list)
    for site in sites:
        quantised[site.layer].append(site)
    # Layers without an adapter keep something too: gradients pass through them.
    layers: dict[int | None, list[Entry]] = {layer: [] for layer in quantised if layer is not None and layer >= first}
    for entry in plan.entries:
        layers.setdefault(entry.site.layer, []).append(entry)
    by_layer = [
        adapter_layer(entries, shape, load) + inputs_of_8_bit_layers(quantised[layer], entries, load)
        for layer, entries in layers.items()
    ]
    base, output, transient = base_layer(shape, load), output_head(shape, load), backward_transient(shape, load)
    if not checkpointing:
        return (shape.layers - first) * base + sum(by_layer) + max(output, transient)
    inputs = shape.layers * shape.hidden * load.count * load.bytes
    inputs += sum(inputs_despite_checkpointing(quantised[layer], load) for layer in layers)
    return inputs + max(output, base + max(by_layer) + transient)
