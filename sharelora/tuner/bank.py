"""The bank: every matrix of an adapter once, and the views through which layers use them.

Tying parameters inside layers trains correctly but breaks in files, in FSDP and across devices. So the matrices are
kept in one container of the tuner, and a layer holds a view without parameters that looks its matrix up at each use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft.tuners.lora.variants import BlockDiagonalLinear
from torch import Tensor, nn
from torch.nn import functional as F

from sharelora.plan.plan import Entry
from sharelora.plan.site import Site

# As `F.pad` takes it: columns before and after, rows before and after.
Padding = tuple[int, int, int, int]


def version(x: Tensor) -> int:
    """Return how often a tensor was written to, as far as torch counts it."""
    return 0 if x.is_inference() else x._version


# By the number of dimensions of a kernel.
_CONVOLVE: tuple[Callable[..., Tensor], ...] = (F.linear, F.conv1d, F.conv2d, F.conv3d)


class MatrixView(nn.Module):
    """What a layer has in `lora_A` or `lora_B` in place of PEFT's linear layer or convolution.

    The A of a fused module is made of the As of its parts, one below the other, its B of their Bs as blocks. The A of
    a convolution moves over the input as the base layer does; its B reads each position alone.

    Args:
        bank: the adapter's matrices, by name.
        entries: those of the module: one, or one per adapted part of a fused module.
        side: A or B.
        base_layer: the view's weight appears on the device of this layer.
        bias: of this layer's map, which it alone has, (rows,).
    """

    _bank: nn.ParameterDict
    _base_layer: nn.Module

    def __init__(
        self,
        bank: nn.ParameterDict,
        entries: tuple[Entry, ...],
        side: str,
        base_layer: nn.Module,
        bias: nn.Parameter | None = None,
    ) -> None:
        nn.Module.__init__(self)  # a subclass has PEFT's own constructor behind it
        # Around nn.Module, which would register the matrices and the base layer as parts of this view, too.
        object.__setattr__(self, "_bank", bank)
        object.__setattr__(self, "_base_layer", base_layer)
        self.names = tuple(entry.a if side == "A" else entry.b for entry in entries)
        rank, site = sum(entry.r * entry.site.experts for entry in entries), entries[0].site
        rows, columns = (rank, site.d_in) if side == "A" else (site.outputs, rank)
        # PEFT reads these three of a linear layer.
        self.out_features, self.in_features, self.bias = rows, columns, bias
        self.dimensions, self.groups = len(site.kernel), 1 if side == "A" else site.groups
        self.moves = side == "A" and bool(site.kernel)
        # For each matrix; None where one matrix is all of the view.
        self.paddings = None if site.part is None else [_padding(entries, side, i) for i in range(len(entries))]
        # The part of the outputs that each B is for.
        self.parts = [entry.site if side == "B" else None for entry in entries]

    @property
    def weight(self) -> Tensor:
        """The matrix, (rows, columns, *kernel): the bank's own parameter where that is on the layer's device."""
        matrices = [self._on_device(matrix) for matrix in self.matrices()]
        if self.paddings is None:
            return matrices[0]
        # Padded to full size and summed, so that autograd passes each matrix its own block of the gradient.
        blocks = zip(matrices, self.paddings, self.parts, strict=True)
        return torch.stack([_spread(F.pad(m, padding), part) for m, padding, part in blocks]).sum(0)

    @property
    def version(self) -> int:
        """A number that grows with every write to a matrix of this view."""
        return sum(version(matrix) for matrix in self.matrices())

    def _on_device(self, matrix: Tensor) -> Tensor:
        base = getattr(self._base_layer, "weight", None)
        if base is None or matrix.is_meta or base.is_meta:
            return matrix
        return matrix.to(base.device)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` times the matrix plus the bias, (..., rows), for a convolution (..., rows, *positions)."""
        steps: dict[str, Any] = {"groups": self.groups} if self.dimensions else {}
        if self.moves:
            steps |= {"stride": self._base_layer.stride, "padding": self._base_layer.padding}
        bias = None if self.bias is None else self.bias.to(x)
        return _CONVOLVE[self.dimensions](x, self.weight.to(x), bias, **steps)

    def matrices(self) -> Iterator[nn.Parameter]:
        """Yield the matrices of this view."""
        return (self._bank[name] for name in self.names)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield also the matrices, although the bank owns them: PEFT freezes and thaws adapters through it."""
        yield from self.matrices()
        yield from super().parameters(recurse)

    def extra_repr(self) -> str:
        return f"{self.out_features}x{self.in_features} of {', '.join(self.names)}"


class BlockView(MatrixView, BlockDiagonalLinear):  # type: ignore[misc]
    """A view of a matrix that consists of blocks on its diagonal; it multiplies as PEFT's module does.

    Args:
        nblocks: how many blocks.
        parts: the arguments of `MatrixView`.
    """

    def __init__(self, nblocks: int, *parts: Any) -> None:
        MatrixView.__init__(self, *parts)
        self.nblocks = nblocks

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` times the matrix, (..., rows)."""
        product: Tensor = BlockDiagonalLinear.forward(self, x)
        return product


class EmbeddingViews(nn.ParameterDict):
    """What an adapted embedding has as `lora_embedding_A` or `lora_embedding_B`: adapter -> view.

    PEFT multiplies what it finds there under a name, which is on the layer's device. What it finds by going through the
    whole dict it freezes, thaws and asks for its device: the bank's own matrices.
    """

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        return found.weight if isinstance(found, MatrixView) else found

    def __setitem__(self, name: str, value: Any) -> None:
        found = super().__getitem__(name) if name in self else None
        if isinstance(found, MatrixView) and not isinstance(value, MatrixView):
            return  # PEFT moves matrices to the device of the layer; a view does so by itself at each use
        if found is not None:
            del self[name]  # torch lets no module take the place of a parameter
        super().__setitem__(name, value)

    def values(self) -> Any:
        """Return the bank's matrices."""
        found = (super(EmbeddingViews, self).__getitem__(name) for name in self)
        return [next(one.parameters()) if isinstance(one, MatrixView) else one for one in found]

    def items(self) -> Any:
        """Return adapters with the bank's matrices."""
        return list(zip(self, self.values(), strict=True))


def matrices_of(layer: Any, adapter: str) -> dict[str, Any]:
    """Return where a layer of PEFT keeps its matrices: A and B -> a dict with an entry of the adapter.

    Args:
        layer: adapted; that of an embedding gets dicts that can hold views.
        adapter: name of the adapter.
    """
    if adapter in layer.lora_A:
        return {"A": layer.lora_A, "B": layer.lora_B}
    for side in "AB":
        found = getattr(layer, f"lora_embedding_{side}")
        if not isinstance(found, EmbeddingViews):
            setattr(layer, f"lora_embedding_{side}", EmbeddingViews(dict(found)))
    return {"A": layer.lora_embedding_A, "B": layer.lora_embedding_B}


def _padding(entries: tuple[Entry, ...], side: str, index: int) -> Padding:
    """Return the padding that gives the matrix of one part the ranks of the others too: rows of A, columns of B."""
    ranks = [entry.r for entry in entries]
    before, after = sum(ranks[:index]), sum(ranks[index + 1 :])
    return (0, 0, before, after) if side == "A" else (before, after, 0, 0)


def _spread(matrix: Tensor, part: Site | None) -> Tensor:
    """Put the rows of a B where the outputs of its part are in the module, with zeros between; None leaves a matrix."""
    if part is None:
        return matrix
    first, run, step = part.stripe
    return F.pad(matrix.unflatten(0, (-1, run)), (0, 0, first, step - first - run)).flatten(0, 1)


def deposit(bank: nn.ParameterDict, weight: nn.Parameter, view: MatrixView) -> None:
    """Put newly initialised matrices into the bank; those already there stay.

    So the first site that uses a matrix gives its initial value, as in the authors' code.

    Args:
        bank: the adapter's matrices, by name.
        weight: what PEFT initialised for the module, of the view's shape.
        view: the view that takes its place.
    """
    for index, name in enumerate(view.names):
        if name in bank:
            continue
        matrix = weight
        if view.paddings is not None:
            left, right, above, below = view.paddings[index]
            part = view.parts[index]
            own = weight.data if part is None else weight.data[part.indices]
            rows, columns = own.shape
            matrix = nn.Parameter(own[above : rows - below, left : columns - right].clone())
        matrix.requires_grad_(weight.requires_grad)
        bank[name] = matrix
