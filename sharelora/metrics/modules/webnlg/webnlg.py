"""The metrics of WebNLG and DART as a module of `evaluate`, which loads this file by its path; no hub is asked.

`evaluate.load(str(sharelora.metrics.modules_folder() / "webnlg")).compute(predictions=..., references=...)`
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from sharelora.metrics.nlg import score_webnlg

_CITATION = "Castro Ferreira et al. 2020: The 2020 bilingual, bi-directional WebNLG+ shared task."
_INPUTS = (
    "predictions: one text per input. references: a list of texts per input. "
    "without: metrics to leave out, e.g. ['METEOR'] where there is no Java."
)


class WebNLG(evaluate.Metric):
    """BLEU, METEOR and TER."""

    def _info(self) -> Any:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="BLEU, METEOR and TER as LoRA's recipe for WebNLG and DART computes them.",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions: Any, references: Any, without: Any = ()) -> dict[str, float]:
        return score_webnlg(predictions, references, without)
