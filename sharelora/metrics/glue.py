"""GLUE's metrics, on class ids and scores: what the paper and the benchmark's server report (Wang et al. 2018)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharelora.data.glue.tasks import glue_task
from sharelora.support.errors import UserError

Values = NDArray[np.generic]
COMBINED = "combined_score"


def accuracy(predictions: Values, references: Values) -> float:
    """The share of right predictions."""
    return float(np.mean(predictions == references))


def f1(predictions: Values, references: Values) -> float:
    """The harmonic mean of precision and recall of class 1; 0 where it is never found."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, pos_label=1, zero_division=0))


def matthews_correlation(predictions: Values, references: Values) -> float:
    """The correlation of two classes (Matthews 1975), -1 to 1; 0 where one side is constant."""
    from sklearn.metrics import matthews_corrcoef

    return 0.0 if _constant(predictions, references) else float(matthews_corrcoef(references, predictions))


def pearson(predictions: Values, references: Values) -> float:
    """The linear correlation of scores, -1 to 1; 0 where one side is constant."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, references)


def spearmanr(predictions: Values, references: Values) -> float:
    """The linear correlation of ranks, equal values sharing their mean rank; 0 where one side is constant."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, references)


def _constant(predictions: Values, references: Values) -> bool:
    """Whether a correlation is undefined: scipy gives NaN, which no epoch can be chosen by and JSON cannot hold."""
    return bool((predictions == predictions[0]).all() or (references == references[0]).all())


def _correlation(correlate: Callable[..., tuple[float, float]], predictions: Values, references: Values) -> float:
    if _constant(predictions, references):
        return 0.0
    with warnings.catch_warnings():
        # A head that has only begun to learn gives scores that are nearly equal.
        warnings.filterwarnings("ignore", message=".*nearly constant")
        return float(correlate(predictions, references)[0])


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
}


def metric_names(task: str | Sequence[str]) -> tuple[str, ...]:
    """The metrics of a task by its name, or metrics by their own names.

    Raises:
        UserError: an unknown task or metric.
    """
    names = glue_task(task).metrics if isinstance(task, str) else tuple(task)
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise UserError(
            f"found metric {', '.join(unknown) or 'none'}; need one of {', '.join(METRICS)}; change the name"
        )
    return names


def compute(task: str | Sequence[str], predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """Score predictions.

    Args:
        task: one of GLUE's tasks, or names of metrics.
        predictions: class ids or scores, shape (N).
        references: the right ones, shape (N).

    Returns:
        Metric -> score; with several metrics also `combined_score`, their plain mean.

    Raises:
        UserError: an unknown task or metric, or scores that are not numbers.
        ValueError: nothing to score, or different counts.
    """
    names, predicted, right = metric_names(task), np.asarray(predictions), np.asarray(references)
    if predicted.shape != right.shape or predicted.ndim != 1 or not predicted.size:
        raise ValueError(f"{predicted.shape} predictions for {right.shape} references; need equal counts above 0")
    if not np.isfinite(predicted.astype(np.float64)).all():
        raise UserError("the model's scores are not numbers: training diverged; lower --learning_rate")
    scores = {name: METRICS[name](predicted, right) for name in names}
    return scores if len(scores) == 1 else {**scores, COMBINED: sum(scores.values()) / len(scores)}
