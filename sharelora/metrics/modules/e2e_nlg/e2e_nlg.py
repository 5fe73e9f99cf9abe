"""The E2E challenge's metrics as a module of `evaluate`, which loads this file by its path; no hub is asked.

`evaluate.load(str(sharelora.metrics.modules_folder() / "e2e_nlg")).compute(predictions=..., references=...)`
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from sharelora.metrics.nlg import score_e2e

_CITATION = "Novikova et al. 2017: The E2E dataset, new challenges for end-to-end generation."
_INPUTS = (
    "predictions: one text per input. references: a list of texts per input. "
    "without: metrics to leave out, e.g. ['METEOR'] where there is no Java. python: NIST as with the script's -p."
)


class E2ENLG(evaluate.Metric):
    """BLEU, NIST, METEOR, ROUGE_L and CIDEr."""

    def _info(self) -> Any:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="The five metrics of the E2E challenge.",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions: Any, references: Any, without: Any = (), python: bool = False) -> dict[str, float]:
        return score_e2e(predictions, references, without, python)
