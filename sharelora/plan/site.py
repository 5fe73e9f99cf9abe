"""A site: one adapted linear map, and the names by which people mean it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from sharelora.support.errors import UserError
from sharelora.support.reading import NAME

ALL_LINEAR = "all-linear"  # every linear layer but the output head, in PEFT's words
# Modules of one layer that usually read the same input, in the names of the common architectures. Their names alone do
# not prove it: see `input_of`.
SAME_INPUT = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)


@dataclass(frozen=True)
class Site:
    """One adapted linear map.

    Attributes:
        path: module path in the model, e.g. `model.layers.3.self_attn.q_proj`.
        kind: what the module is in its layer, e.g. `self_attn.q_proj`; the same in all layers.
        layer: index of the layer, None for a module outside the layers.
        d_in: D_in, input features.
        d_out: D_out, output features of this site (of the part, for a fused module).
        part: which part of a fused module's outputs this is, None if the site is the whole module.
        parts: how many parts the fused module has.
        kernel: sizes of a convolution's kernel, () for any other map. A has the kernel, B mixes channels alone.
        groups: of a convolution: each group of its outputs reads its own r / groups rows of A.
        embedding: whether the map looks up a row per token, so that D_in is the size of the vocabulary.
        experts: how many maps one parameter holds, each of which has r rows of A and r columns of B.
        blocks: of how many blocks on the diagonal A and B consist; (1, 1) are dense matrices.
        rows: where the outputs of a part are, as (first, run, step): of every `step` outputs the `run` from `first` on.
            None for equal parts one after the other. In GPT-NeoX every head has its q, k and v: with heads of size 64
            its k is (64, 64, 192).
    """

    path: str
    kind: str
    layer: int | None
    d_in: int
    d_out: int
    part: int | None = None
    parts: int = 1
    kernel: tuple[int, ...] = ()
    groups: int = 1
    embedding: bool = False
    experts: int = 1
    blocks: tuple[int, int] = (1, 1)
    rows: tuple[int, int, int] | None = None

    @property
    def stripe(self) -> tuple[int, int, int]:
        """Where the outputs of a part are: `rows`, also for equal parts."""
        return self.rows or ((self.part or 0) * self.d_out, self.d_out, self.parts * self.d_out)

    @property
    def outputs(self) -> int:
        """Output features of the whole module."""
        _, run, step = self.stripe
        return self.d_out // run * step

    @property
    def indices(self) -> list[int]:
        """The outputs of the module that are this site's, in the order of the rows of its B."""
        first, run, step = self.stripe
        return [start + i for start in range(first, self.outputs, step) for i in range(run)]

    @property
    def name(self) -> str:
        """The path, with the part's index for a fused module."""
        return self.path if self.part is None else f"{self.path}[{self.part}]"

    def shapes(self, r: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of A, (r, D_in, *kernel), and B, (D_out, r / groups, 1, ...), at a rank.

        With several experts, r is the rank of each. Block-diagonal matrices are kept as their blocks, one below the
        other.
        """
        r *= self.experts
        blocks_a, blocks_b = self.blocks
        columns = r // (self.groups * blocks_b)
        return (r, self.d_in // blocks_a, *self.kernel), (self.d_out, columns, *(1 for _ in self.kernel))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that is adapted; embeddings and GPT-2 store it transposed."""
        return (self.outputs, self.d_in // self.groups, *self.kernel)

    def to_json(self) -> dict[str, Any]:
        """Return the site as plain JSON data; what only some kinds of sites have is left out elsewhere."""
        data = {name: value for name, value in vars(self).items() if OPTIONAL.get(name, ...) != value}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Site:
        """Read back what `to_json` wrote.

        Args:
            data: of the shape `SHAPE`.

        Raises:
            UserError: values that fit no module.
        """
        values: dict[str, Any] = {
            name: data[name] for name in cls.__dataclass_fields__ if name in data or name not in OPTIONAL
        }
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        site = cls(**values)
        if not site._is_sound():
            raise UserError(
                f"the plan has a site {site.name} whose part, rows or blocks fit no module; take the plan of this "
                "model, as `sharelora plan --json` writes it"
            )
        return site

    def _is_sound(self) -> bool:
        """Whether the parts, rows and blocks of a site from a file fit each other."""
        if len(self.blocks) != 2 or (self.rows is not None and len(self.rows) != 3):
            return False
        first, run, step = self.stripe
        fits = 0 < run and first + run <= step and self.d_out % run == 0 and self.outputs <= _MOST_PARTS * self.d_out
        return fits and self.d_in % self.groups == 0 and (self.part or 0) < self.parts


# Fields that a plan of whole linear layers does not have, with what their absence means.
OPTIONAL: Mapping[str, Any] = {
    "kernel": (),
    "groups": 1,
    "embedding": False,
    "rows": None,
    "experts": 1,
    "blocks": (1, 1),
}


_MOST_PARTS = 1024  # what a fused module has besides a part, in parts of that size
SIZE = range(1, 1 << 31)
# What a site is in a file, see `sharelora.support.reading`.
SHAPE: Mapping[str, Any] = {
    **{"path": NAME, "kind": NAME, "layer": (range(1 << 31), None), "d_in": SIZE, "d_out": SIZE},
    **{"part": (range(1 << 31), None), "parts": SIZE, "kernel?": [SIZE], "groups?": SIZE, "embedding?": bool},
    **{"experts?": SIZE, "blocks?": [SIZE], "rows?": ([range(1 << 31)], None)},
}


def parent(path: str) -> str:
    """Return the path of the module that holds another one."""
    return path.rpartition(".")[0]


def ends_with(path: str, name: str) -> bool:
    """Whether a name given by a user means a module, as in PEFT: it is the path, or whole names at its end."""
    return f".{path}".endswith(f".{name}")


def owner(path: str, paths: Container[str]) -> str:
    """Return the module of `paths` that is adapted for a path: its own, or the attention that it is inside of.

    PEFT adapts the output projection of a MultiheadAttention with the whole.
    """
    return parent(path) if parent(path) in paths else path


def matches(site: Site, name: str) -> bool:
    """Whether a module name given by a user means this site: `q_proj`, `self_attn.q_proj`, `c_attn`, `c_attn[0]`."""
    whole = site.kind.rsplit("[", 1)[0] if site.part is not None else site.kind
    return any(ends_with(kind, name) for kind in (site.kind, whole)) or name == site.path


def input_of(path: str, d_in: int) -> tuple[str, ...]:
    """Return a key of what a module reads: modules with equal keys usually read the same tensor.

    The key has the parent, the row of `SAME_INPUT` and the width, since q, k and v of cross-attention, and the two maps
    of RWKV's channel mixing, read inputs of different width. It is a guess: the layers compare the tensors at each
    call, and the estimate of memory, which sees no tensor, relies on it.

    Args:
        path: of the module.
        d_in: D_in, its input features.
    """
    parent, _, name = path.rpartition(".")
    family = next((row for row, names in enumerate(SAME_INPUT) if name in names), None)
    return (path,) if family is None else (parent, str(family), str(d_in))
