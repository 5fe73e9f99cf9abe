"""Keys and values of beams as a tree: what beams have in common is kept, read and attended to once.

The beams of a prompt come from few ancestors. A cache with a row per beam holds their common past once per beam and
copies it whenever beams trade places. Here a prompt has one pool of columns, its own and those of every token that was
read for it; a row of a step is one beam, and which columns it sees is a mask. Nothing moves when beams are reordered,
and the model reads the live beams alone, however many each prompt has.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

from sharelora.evaluation.key_value_cache import UNABLE, PromptReader, agree
from sharelora.models.head import head_on

logger = logging.getLogger(__name__)

_NAME = "sharelora_beam_tree"
# Columns that no live beam sees any more are thrown out once they are this part of all.
_MOST_UNSEEN = 0.4


class _TreeLayer(DynamicLayer):
    """One layer's pools, (prompts, columns, heads, head size): in this order a column is written and moved at once."""

    keys: Any
    values: Any

    def __init__(self, tree: BeamTree, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.tree, self.dtype, self.device, self.is_initialized = tree, keys.dtype, keys.device, True
        self.keys, self.values = (states.transpose(1, 2).contiguous() for states in (keys, values))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Write a column for each row, (1, heads, rows, head size); return the pools as attention expects them."""
        tree = self.tree
        for pool, states in ((self.keys, key_states), (self.values, value_states)):
            pool[tree.owner, tree.columns] = states[0].transpose(0, 1)
        return self.keys[:, : tree.used].transpose(1, 2), self.values[:, : tree.used].transpose(1, 2)

    def move(self, prompts: Tensor, columns: Tensor, room: int) -> None:
        """Keep some columns of some prompts, (prompts, columns), and have room for so many."""
        for name in ("keys", "values"):
            pool = getattr(self, name)
            moved = pool.new_empty(len(prompts), room, *pool.shape[2:])
            moved[:, : columns.shape[1]] = pool[prompts[:, None], columns]
            # What nobody sees counts nothing, unless it is no number.
            moved[:, columns.shape[1] :] = 0
            setattr(self, name, moved)

    def get_seq_length(self, *args: Any) -> int:
        return self.tree.used

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return self.tree.used, 0


class BeamTree(Cache):
    """The cache of a beam search.

    Args:
        prompts: the cache after the prompts were read, one row each.
        mask: which of its columns are no padding, (prompts, T).
        beam: most rows per prompt.

    Attributes:
        owner: the prompt of each row, (rows,), ascending.
        places: its place among the rows of its prompt, (rows,).
        columns: the column that it writes in this step, (rows,).
        seen: which columns it sees, (rows, columns in use).
        placed: the rows of each prompt side by side, (prompts, most rows of one).
        unseen: which columns they see, as a mask: 0 or -inf, (prompts, 1, most rows of one, columns in use).
        prompts, used, room: the shape of the pools: prompts, columns in use of each, and columns there is room for.

    Raises:
        ValueError: a cache with other columns than the prompts have, such as those of a prefix.
    """

    def __init__(self, prompts: Any, mask: Tensor, beam: int) -> None:
        layers: list[Any] = [_TreeLayer(self, layer.keys, layer.values) for layer in prompts.layers]
        super().__init__(layers=layers)
        self.dtype = layers[0].dtype
        self.beam, self.used, self.room = beam, mask.shape[1], mask.shape[1]
        self.prompts, self.owner = len(mask), torch.arange(len(mask), device=mask.device)
        self.columns = self.places = torch.zeros_like(self.owner)
        self.seen = mask.bool()
        if any(layer.keys.shape[1] != self.used for layer in layers):
            raise ValueError("the cache has columns of its own")

    def grow(self, parents: Tensor, owner: Tensor, places: Tensor) -> None:
        """Begin a step.

        Args:
            parents: the row of the step before that each row continues, (rows,).
            owner: the prompt of each row, counted among the prompts that have rows still, (rows,).
            places: the place of each row among those of its prompt, (rows,).
        """
        of_pool = self.owner[parents]
        width, seen = int(places.max()) + 1, self.seen[parents]
        present, pool = of_pool.unique_consecutive(), of_pool
        needed = torch.zeros(len(present), self.used, dtype=torch.bool, device=seen.device)
        needed.index_put_((owner,), seen, accumulate=True)
        most = int(needed.sum(1).max())
        if self.used + width > self.room or most * len(present) < (1 - _MOST_UNSEEN) * self.used * self.prompts:
            # Columns that are needed come first, in their order; shorter prompts keep some that nobody sees.
            kept = needed.int().argsort(dim=1, descending=True, stable=True)[:, :most]
            # Room until about as much is unseen again.
            self.room = most + max(width, most // 2, 4 * self.beam)
            for layer in self.layers:
                assert isinstance(layer, _TreeLayer)
                layer.move(present, kept, self.room)
            seen, pool = seen.gather(1, kept[owner]), owner
            self.prompts, self.used = len(present), most
        self.owner, self.columns = pool, self.used + places
        own = F.one_hot(places, width).bool()
        self.seen = torch.cat((seen, own), dim=1)
        self.used += width
        # Where a prompt has fewer rows than others, some places are not used: what stands there is never read.
        self.places = places
        self.placed = owner.new_zeros(self.prompts, width)
        self.placed[pool, places] = torch.arange(len(owner), device=owner.device)
        self.unseen = torch.zeros(self.prompts, 1, width, self.used, dtype=self.dtype, device=owner.device)
        self.unseen[pool, 0, places] = self.unseen.new_zeros(()).masked_fill(~self.seen, -torch.inf)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None) -> Tensor:
        """Let each row attend to the columns that it sees.

        Args:
            query: (1, heads, rows, head size).
            keys, values: of all prompts, (prompts, heads, columns, head size).
            scaling: of the products.

        Returns:
            (1, rows, heads, head size).
        """
        placed, grouped = query[0].transpose(0, 1)[self.placed].transpose(1, 2), keys.shape[1] != query.shape[1]
        output = F.scaled_dot_product_attention(placed, keys, values, self.unseen, scale=scaling, enable_gqa=grouped)
        return output.transpose(1, 2)[self.owner, self.places][None]


_tree: ContextVar[BeamTree | None] = ContextVar("tree", default=None)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None = None, **options: Any
) -> tuple[Tensor, None]:
    """The attention that models call while a tree is read."""
    tree = _tree.get()
    # What this attention does not know would be left out in silence.
    unknown = {
        name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if options.get(name) is not None
    }
    if tree is None or unknown:
        raise NotImplementedError(f"attention with {', '.join(sorted(unknown)) or 'no tree'}")
    return tree.attend(query, key, value, scaling), None


AttentionInterface.register(_NAME, _attention)


@contextmanager
def reading(model: Any, tree: BeamTree) -> Iterator[None]:
    """Let a model attend to a tree."""
    config = model.config.get_text_config()
    before, token = config._attn_implementation, _tree.set(tree)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _tree.reset(token)


def read_rows(model: Any, tree: BeamTree, tokens: Tensor, positions: Tensor) -> Any:
    """Let a model read one token of each row.

    Args:
        model: a causal language model.
        tree: after `grow`.
        tokens, positions: (rows,).

    Returns:
        The logits after each row, (rows, vocabulary).
    """
    with reading(model, tree), head_on(model, _rows):
        options = {"position_ids": positions[None], "past_key_values": tree, "use_cache": True}
        logits: Tensor = model(input_ids=tokens[None], **options).logits
    return logits.flatten(0, 1)


def _rows(hidden: Tensor) -> Tensor:
    return hidden[0]


@torch.no_grad()
def can_read_tree(reader: PromptReader, ids: Sequence[int]) -> bool:
    """Try on a few tokens whether a model gives each beam of a tree what it gives to the beam's text alone.

    Args:
        reader: of the model.
        ids: any four tokens of the vocabulary, or more.
    """
    if "position_ids" not in reader.accepted:
        return False
    device, start, others = reader.device, list(ids[:2]), list(ids[2:4])
    row = torch.tensor([start], device=device)
    zero, both = torch.tensor([0], device=device), torch.tensor([0, 0], device=device)
    texts = [[*start, others[0], token] for token in others]
    try:
        cache = reader.call(row, torch.ones_like(row), torch.arange(2, device=device)[None], use_cache=True)
        tree = BeamTree(cache.past_key_values, torch.ones_like(row), 2)
        tree.grow(zero, zero, zero)
        read_rows(reader.model, tree, torch.tensor(others[:1], device=device), zero + 2)
        tree.grow(both, both, torch.arange(2, device=device))
        logits = read_rows(reader.model, tree, torch.tensor(others, device=device), both + 3)
        return agree(torch.cat([reader.next_logits([text]) for text in texts]), logits.float())
    except UNABLE as error:
        logger.info("beams are read in rows of their own: the model cannot read them as a tree (%s)", error)
        return False
