"""The similarity of a model's layers, as data and as a small JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sharelora.support.errors import UserError
from sharelora.support.files import write_json
from sharelora.support.reading import NAME, misfit, read_json

FORMAT = "sharelora-similarity/1"
FILE = "similarity.json"
COSINE, ANGULAR = "cosine", "angular"
# Each measure's lowest and highest value. The paper names the angular distance and asks that it be *at least* a
# threshold; its figure shows the cosine. So there is the cosine, and 1 - arccos(cosine) / pi, which is 1 for equal
# directions too.
MEASURES: Mapping[str, tuple[float, float]] = {COSINE: (-1.0, 1.0), ANGULAR: (0.0, 1.0)}
# Fields of a model's configuration that two models must have in common to have the same layers.
_SHAPE = ("model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
_COUNT = range(1, 1 << 31)
# What a file has to be, see `sharelora.support.reading`.
_FIELDS: Mapping[str, Any] = {
    **{"model": NAME, "shape": {"num_hidden_layers": range(1, 1001)}, "sample": str, "digest": NAME},
    **{"texts": _COUNT, "max_length": _COUNT, "between": {name: [[float]] for name in MEASURES}},
    "through": {name: [float] for name in MEASURES},
}

Rows = tuple[tuple[float, ...], ...]


def shape_of(config: Any) -> dict[str, Any]:
    """Return what tells models with different layers apart.

    Args:
        config: of transformers; of a vision-language model, its language model counts.
    """
    text = config.get_text_config()
    return {name: getattr(text, name, None) for name in _SHAPE}


@dataclass(frozen=True)
class Similarity:
    """How similar the layers of a model are, as means over texts.

    Attributes:
        model: the base's name.
        shape: what `shape_of` returned for it.
        sample: where the texts are from.
        digest: tells these texts from others.
        texts: how many of them could be used.
        max_length: most tokens of a text; longer ones were cut to that.
        between: measure -> (L, L): the outputs of each two layers.
        through: measure -> L numbers: a layer's input and its output.
    """

    model: str
    shape: Mapping[str, Any]
    sample: str
    digest: str
    texts: int
    max_length: int
    between: Mapping[str, Rows]
    through: Mapping[str, tuple[float, ...]]

    @property
    def layers(self) -> int:
        """L, the layers of the model."""
        return len(self.between[COSINE])

    def matrix(self, measure: str = COSINE) -> Rows:
        """Return the similarity of each two layers by one measure, (L, L)."""
        return self.between[measure]

    def check(self, config: Any, file: str | Path) -> None:
        """Refuse to use this for a model with other layers than those that were measured.

        Args:
            config: of transformers.
            file: where this was read from, for the message.

        Raises:
            UserError: the first thing that differs.
        """
        shape = shape_of(config)
        for name, value in self.shape.items():
            if shape.get(name) != value:
                raise UserError(
                    f"{file} is the similarity of {self.model} with {name} {value}; this model has {shape.get(name)}; "
                    "need one of this model; run sharelora similarity on it"
                )

    def write(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_json(path, {"format": FORMAT, **asdict(self)})


def read_similarity(path: str | Path) -> Similarity:
    """Read what `Similarity.write` wrote.

    Raises:
        UserError: the file is missing or of another kind, or its numbers do not fit together.
    """
    data = read_json(path)
    kind = data.get("format")
    if kind != FORMAT:
        raise UserError(f"{path} has format {str(kind)[:60]!r}; need {FORMAT!r}; write it with sharelora similarity")
    if fault := misfit(data, _FIELDS):
        raise _damaged(path, f"it has {fault}")
    values = {field.name: data[field.name] for field in fields(Similarity)}
    values["between"] = {name: tuple(map(tuple, data["between"][name])) for name in MEASURES}
    values["through"] = {name: tuple(data["through"][name]) for name in MEASURES}
    similarity = Similarity(**values)
    layers = similarity.shape.get("num_hidden_layers")
    for name, (low, high) in MEASURES.items():
        rows = similarity.between[name]
        if {len(rows), len(similarity.through[name]), *map(len, rows)} != {layers}:
            raise _damaged(path, f"{name} is not {layers} by {layers}")
        if not all(low <= value <= high for row in rows for value in row):
            raise _damaged(path, f"{name} has a value outside {low:g} to {high:g}")
        if any(rows[i][j] != rows[j][i] for i in range(len(rows)) for j in range(i)):
            raise _damaged(path, f"{name} is not symmetric")
    return similarity


def _damaged(path: str | Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged: {reason}; write it again with sharelora similarity")
