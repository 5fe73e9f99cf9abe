"""Which numbers of a module's path count layers, found from the structure that a model repeats."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

Parts = tuple[str, ...]
EVERY = "*"  # in a template: any number


class Layers:
    """The stacks of layers in a model.

    A number in a path, with a name before it and one behind it, is a position in a list of modules. The outermost one
    counts the layers, as in `model.layers.3.self_attn.q_proj`, with two exceptions. A list in which nothing is repeated
    holds no layers (a model in a list). And where the members of a list consist of another list rather than of modules
    of their own, the layers are the members of the inner one: `encoder.layers.1.blocks.0` is a block of the second
    stage of a Swin transformer, and one of its layers; `layers.3.mlp.experts.5` is an expert in a layer that has an
    attention of its own. Such layers are numbered through all outer positions, from 0.

    Args:
        paths: of all modules that a layer may be made of, adapted or not.
        pattern: PEFT's `layers_pattern`, names of the lists that count the layers, in place of the search.
    """

    def __init__(self, paths: Iterable[str], pattern: str | Sequence[str] | None = None) -> None:
        self._patterns = [pattern] if isinstance(pattern, str) else list(pattern or ())
        self._split = [tuple(path.split(".")) for path in paths]
        self._repeating = self._find_repeating()
        self._kinds: dict[Parts, tuple[set[Parts], set[Parts]]] = defaultdict(lambda: (set(), set()))
        self._found: dict[tuple[str, Parts], set[tuple[int, ...]]] = defaultdict(set)
        for parts in self._split:
            for index in _numbers(parts):
                kind, nested = self._kind(parts, index)
                self._kinds[_template(parts, index)][nested].add(kind)
        for parts in self._split:
            chosen = self._chosen(parts)
            if chosen:
                self._found[self._stack(parts, chosen)].add(_position(parts, chosen))
        self._ranks = {
            stack: {position: rank for rank, position in enumerate(sorted(positions))}
            for stack, positions in self._found.items()
        }

    def position(self, path: str) -> tuple[str, int | None, str]:
        """Return the stack of layers, the layer's number in it, and the kind of module: what it is in its layer.

        The stack is the path of the list without the numbers that count layers; `("", None, path)` outside of layers.
        """
        parts = tuple(path.split("."))
        chosen = self._chosen(parts)
        if not chosen:
            return "", None, path
        stack, position = self._stack(parts, chosen), _position(parts, chosen)
        number = position[0] if len(position) == 1 else self._ranks[stack][position]
        return stack[0], number, ".".join(parts[chosen[-1] + 1 :])

    def _chosen(self, parts: Parts) -> list[int]:
        """Return where in a path the numbers are that count layers."""
        numbers = _numbers(parts)
        if self._patterns:
            return [index for index in numbers if self._named(parts[:index])]
        chosen: list[int] = []
        for index in numbers:
            own, nested = self._kinds[_template(parts, index)]
            deeper = any(_template(parts, inner) in self._repeating for inner in numbers if inner > index)
            passes_on = deeper and len(nested) > len(own)
            if _template(parts, index) in self._repeating or not (passes_on or chosen):
                chosen.append(index)
            if not passes_on:
                break
        return chosen

    def _named(self, container: Parts) -> bool:
        # As PEFT does in `check_target_module_exists`.
        return any(re.fullmatch(rf"(?:.*\.)?{pattern}", ".".join(container)) for pattern in self._patterns)

    def _find_repeating(self) -> set[Parts]:
        """Return the lists of which two members have a module in common."""
        members: dict[tuple[Parts, Parts], dict[str, set[Parts]]] = defaultdict(lambda: defaultdict(set))
        for parts in self._split:
            for index in _numbers(parts):
                members[_template(parts, index), parts[:index]][parts[index]].add(_template(parts[index + 1 :]))
        return {
            template
            for (template, _), contents in members.items()
            if sum(map(len, contents.values())) > len(set().union(*contents.values()))
        }

    def _kind(self, parts: Parts, index: int) -> tuple[Parts, bool]:
        """Return what a module is in a member of a list, and whether it is in an inner list that repeats."""
        inner = [i for i in _numbers(parts) if i > index and _template(parts, i) in self._repeating]
        return tuple(EVERY if i in inner else part for i, part in enumerate(parts) if i > index), bool(inner)

    @staticmethod
    def _stack(parts: Parts, chosen: Sequence[int]) -> tuple[str, Parts]:
        kept = tuple(part for i, part in enumerate(parts[: chosen[-1]]) if i not in chosen)
        return ".".join(kept), _template(parts, chosen[-1])


def _numbers(parts: Parts) -> list[int]:
    """Return where the numbers of a path are; one at its beginning or its end is a name."""
    return [index for index, part in enumerate(parts) if part.isdecimal() and 0 < index < len(parts) - 1]


def _template(parts: Parts, end: int | None = None) -> Parts:
    """Return the beginning of a path with every number but a final one replaced."""
    numbers = _numbers(parts)
    return tuple(EVERY if index in numbers else part for index, part in enumerate(parts[:end]))


def _position(parts: Parts, chosen: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(parts[index]) for index in chosen)
