"""GLUE: nine tasks and own files of the same kind, as rows, tokens and submission files. No model is known here."""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.data.glue.batches import GlueCollator, GlueRows, encode
    from sharelora.data.glue.files import write_predictions
    from sharelora.data.glue.load import GlueData, hold_out, load_glue, take
    from sharelora.data.glue.tasks import TASKS, GlueTask, glue_task

__all__ = [
    "TASKS",
    "GlueCollator",
    "GlueData",
    "GlueRows",
    "GlueTask",
    "encode",
    "glue_task",
    "hold_out",
    "load_glue",
    "take",
    "write_predictions",
]

make_lazy(__name__)
