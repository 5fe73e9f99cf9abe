"""Tasks tuned one after the other with one adapter, every one of them scored after every stage.

May import: everything but cli. Begin with `sequence`, then `stages`.
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.continual.sequence import SHARES, TASKS, TaskSequence
    from sharelora.continual.stages import run_share

__all__ = ["SHARES", "TASKS", "TaskSequence", "run_share"]

make_lazy(__name__)
