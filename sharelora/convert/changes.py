"""What an adapter changes in the files of its base: weight by weight, with tensors that have several names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sharelora.convert.adapter_file import Adapter
from sharelora.convert.base_folder import BaseFolder
from sharelora.support.errors import UserError

# What PEFT calls the new rows of an embedding of which only some tokens are trained.
ROWS = ".token_adapter.trainable_tokens_delta"


@dataclass(frozen=True)
class Changes:
    """What an adapter changes in the files of a base.

    A tensor may have several names: the input and the output embeddings of many models are one. `replaced` and
    `rows` change the tensor in a file, and so under all of its names; the other changes are those of one name.

    Attributes:
        replaced: name in the files -> tensor that takes the place of the one there.
        rows: name in the files -> indices of rows, and the rows that take their place.
        trained: name in the merged files -> trained copy of the weight.
        own_rows: as `rows`, of one name.
        paths: name in the merged files -> path of the module whose LoRA is added to the weight.
        copies: name in the files -> further names under which its tensor is written too.
        unties: whether the merged model has one tensor per name.
    """

    replaced: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    trained: dict[str, Tensor] = field(default_factory=dict)
    own_rows: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    copies: dict[str, list[str]] = field(default_factory=dict)
    unties: bool = False

    def count(self) -> int:
        """Return how many weights change."""
        return sum(len(names) for names in (self.replaced, self.rows, self.trained, self.own_rows, self.paths))


def find_changes(base: BaseFolder, adapter: Adapter) -> Changes:
    """Find what an adapter changes.

    As soon as one name of a tensor changes on its own, every tensor of the base that has several names is written
    under each of them: the model's configuration has one switch for all.

    Raises:
        UserError: a weight that the base lacks or has in another shape: only whole modules that the configuration
            names (a new classifier) may differ.
    """
    changes = Changes(paths={base.written(f"{path}.weight"): path for path in adapter.plan.by_path})
    tokens: dict[str, tuple[Tensor, Tensor]] = {}
    for name, tensor in adapter.heads().items():
        if name.endswith(ROWS):
            path = name.removesuffix(ROWS)
            tokens[f"{path}.weight"] = (_indices(adapter.config, path), tensor)
        elif is_trained_whole(name, adapter.config):
            changes.trained[base.written(name)] = tensor
        else:
            changes.replaced[_require_shape(base, name, tensor.shape)] = tensor
    for name, (indices, rows) in tokens.items():
        stored = _require_shape(base, name, (None, rows.shape[1]))
        others = [other for other in base.tied.get(base.written(name), ()) if other != base.written(name)]
        # PEFT trains rows of the input embeddings for all that is tied to them, unless those have rows of their own.
        if not others or (base.is_input_embedding(name) and not tokens.keys() & set(others)):
            changes.rows[stored] = (indices, rows)
        else:
            changes.own_rows[base.written(name)] = (indices, rows)
    return _untied(base, changes)


def _untied(base: BaseFolder, changes: Changes) -> Changes:
    changed = changes.paths.keys() | changes.trained.keys() | changes.own_rows.keys()
    if not any(base.written(name) in changed for name in base.tied):
        return changes
    copies: dict[str, list[str]] = {}
    for name in base.tied:
        stored = base.stored(name)
        if stored is not None and base.own(name) is None:
            copies.setdefault(stored, []).append(name)
    return Changes(**{**vars(changes), "copies": copies, "unties": True})


def is_trained_whole(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a weight belongs to a module that PEFT's `modules_to_save` names, by PEFT's rule: the path's ending."""
    parts = name.split(".")
    paths = [".".join(parts[:count]) for count in range(1, len(parts))]
    return any(path.endswith(module) for module in config.get("modules_to_save") or () for path in paths)


def _require_shape(base: BaseFolder, name: str, need: Sequence[int | None]) -> str:
    """Return the name in the files of a weight; a dimension of None may have any size."""
    stored = base.stored(name)
    shape = base.shapes[stored] if stored else None
    fits = shape is not None and len(shape) == len(need)
    if not fits or any(n not in (None, size) for n, size in zip(need, shape or (), strict=True)):
        raise UserError(
            f"the adapter holds {name} of shape {tuple(need)}; the base has {shape or 'none'}; "
            "merge with peft, which can resize a live model"
        )
    return str(stored)


def _indices(config: Mapping[str, Any], path: str) -> Tensor:
    """Return which tokens of an embedding are trained.

    Raises:
        UserError: the configuration does not say it.
    """
    indices = config.get("trainable_token_indices")
    if isinstance(indices, Mapping):
        indices = next((found for name, found in indices.items() if path.endswith(name)), None)
    if indices is None:
        raise UserError(
            f"the adapter holds trained tokens of {path}; need trainable_token_indices in its configuration, which say "
            "which ones; import it again from its source"
        )
    return torch.tensor(indices)
