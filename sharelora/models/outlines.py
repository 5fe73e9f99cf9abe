"""The linear layers of published shapes without their models, which take seconds to load: a plan needs no more.

What is not said here (patterns, parts of fused modules, other models) is found in the model itself
(`sharelora.tuner.sites`), with which a test compares every outline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharelora.models.known import SHAPES, known_name
from sharelora.plan.site import ALL_LINEAR, Site, ends_with

Features = tuple[int, int]  # D_in, D_out


@dataclass(frozen=True)
class Outline:
    """The linear layers of a model but for its output head, in the model's order.

    Attributes:
        stack: path of the list of layers.
        layers: how many it has.
        inside: of each layer: path in it -> features.
        after: behind the layers: path in the model -> features.
    """

    stack: str
    layers: int
    inside: Mapping[str, Features]
    after: Mapping[str, Features] = field(default_factory=dict)

    def sites(self) -> list[Site]:
        """Return all sites."""
        inside = [
            Site(f"{self.stack}.{layer}.{path}", path, layer, *features)
            for layer in range(self.layers)
            for path, features in self.inside.items()
        ]
        return inside + [Site(path, path, None, *features) for path, features in self.after.items()]


def _llama(shape: Mapping[str, Any]) -> Outline:
    hidden, mlp = shape["hidden_size"], shape["intermediate_size"]
    narrow = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    attention = {"q_proj": (hidden, hidden), "k_proj": (hidden, narrow), "v_proj": (hidden, narrow)}
    attention["o_proj"] = (hidden, hidden)
    feed_forward = {"gate_proj": (hidden, mlp), "up_proj": (hidden, mlp), "down_proj": (mlp, hidden)}
    inside = {f"self_attn.{name}": features for name, features in attention.items()}
    inside |= {f"mlp.{name}": features for name, features in feed_forward.items()}
    return Outline("model.layers", shape["num_hidden_layers"], inside)


def _gpt2(shape: Mapping[str, Any]) -> Outline:
    hidden = shape["n_embd"]
    inside = {"attn.c_attn": (hidden, 3 * hidden), "attn.c_proj": (hidden, hidden)}
    inside |= {"mlp.c_fc": (hidden, 4 * hidden), "mlp.c_proj": (4 * hidden, hidden)}
    return Outline("transformer.h", shape["n_layer"], inside)


def _roberta(shape: Mapping[str, Any]) -> Outline:
    hidden, mlp = shape["hidden_size"], shape["intermediate_size"]
    inside = {f"attention.self.{name}": (hidden, hidden) for name in ("query", "key", "value")}
    inside |= {"attention.output.dense": (hidden, hidden)}
    inside |= {"intermediate.dense": (hidden, mlp), "output.dense": (mlp, hidden)}
    head = {"classifier.dense": (hidden, hidden), "classifier.out_proj": (hidden, 2)}
    return Outline("roberta.encoder.layer", shape["num_hidden_layers"], inside, head)


# Type of a model -> its outline from its shape.
OUTLINES: Mapping[str, Callable[[Mapping[str, Any]], Outline]] = {"llama": _llama, "gpt2": _gpt2, "roberta": _roberta}


def outlined_sites(model: str, target_modules: str | Sequence[str] | None) -> list[Site] | None:
    """Return the sites of a known model, or None if the model itself has to be looked at.

    Args:
        model: as on a command line: a folder, a hub id, or a known name.
        target_modules: `all-linear`, or names of modules; None and patterns are for the model.
    """
    name = known_name(model)
    if name is None or (Path(model) / "config.json").is_file():
        return None
    outline = OUTLINES.get(SHAPES[name]["model_type"])
    if outline is None or target_modules is None:
        return None
    sites = outline(SHAPES[name]).sites()
    if target_modules == ALL_LINEAR:
        return sites
    return None if isinstance(target_modules, str) else _named(sites, target_modules)


def _named(sites: Iterable[Site], names: Sequence[str]) -> list[Site] | None:
    """Return the sites with these ends of paths; None if one is no linear layer's, as those of embeddings."""
    found = [site for site in sites if any(ends_with(site.path, name) for name in names)]
    met = all(any(ends_with(site.path, name) for site in found) for name in names)
    return found if found and met else None
