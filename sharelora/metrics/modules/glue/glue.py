"""GLUE's metrics as a module of the package `evaluate`, which loads this file by its path; no hub is asked.

`evaluate.load(str(sharelora.metrics.modules_folder() / "glue"), "mrpc").compute(predictions=..., references=...)`
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from sharelora.data.glue.tasks import glue_task
from sharelora.metrics.glue import compute

_CITATION = "Wang et al. 2018: GLUE, a multi-task benchmark and analysis platform for natural language understanding."
_INPUTS = "predictions and references: class ids, or scores for stsb."


class Glue(evaluate.Metric):
    """The metrics of one task; the configuration's name is the task's."""

    def _info(self) -> Any:
        kind = "float64" if glue_task(self.config_name).regression else "int64"
        values = datasets.Value(kind)
        return evaluate.MetricInfo(
            description="The metrics of a task of GLUE.",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": values, "references": values}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return compute(self.config_name, predictions, references)
