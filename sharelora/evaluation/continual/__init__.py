"""Tasks tuned one after the other with one adapter, every one of them scored after every stage."""

from sharelora.evaluation.continual.sequence import SHARES, TASKS, TaskSequence
from sharelora.evaluation.continual.stages import run_share

__all__ = ["SHARES", "TASKS", "TaskSequence", "run_share"]
