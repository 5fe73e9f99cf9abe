"""Memory: what a run will need, before anything is loaded; what the machine has; what to change if that is too little.

May import: tuner, plan, support. Begin with `estimator`.
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.memory.estimator import (
        BYTES,
        FACTORED,
        KEPT_BLOCKS,
        RUNTIME,
        STATES,
        Estimate,
        Item,
        base_bytes,
        estimate,
        optimizer_bytes,
    )

__all__ = [
    "BYTES",
    "FACTORED",
    "KEPT_BLOCKS",
    "RUNTIME",
    "STATES",
    "Estimate",
    "Item",
    "base_bytes",
    "estimate",
    "optimizer_bytes",
]

make_lazy(__name__)
