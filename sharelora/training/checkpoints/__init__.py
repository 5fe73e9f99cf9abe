"""Checkpoints that are whole or not there: written aside, checksummed, verified, and found again after a fault."""

from sharelora.training.checkpoints.folders import (
    Found,
    checkpoints,
    find,
    new_checkpoint,
    recover,
    rotate,
    step_of,
)
from sharelora.training.checkpoints.lock import Lock
from sharelora.training.checkpoints.manifest import damage

__all__ = ["Found", "Lock", "checkpoints", "damage", "find", "new_checkpoint", "recover", "rotate", "step_of"]
