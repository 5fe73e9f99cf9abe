"""GLUE's metrics against the published formulas, worked out here; and the same as a module of `evaluate`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharelora.data.glue import TASKS
from sharelora.metrics import modules_folder
from sharelora.metrics.glue import compute
from sharelora.support.errors import UserError

# 10 rows: 4 true positives, 1 false positive, 2 false negatives, 3 true negatives.
PREDICTED = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
RIGHT = [1, 1, 1, 1, 0, 1, 1, 0, 0, 0]
SCORES = [0.5, 1.0, 1.0, 4.0, 3.0]
WANTED = [1.0, 2.0, 0.5, 5.0, 2.0]


def counts(predicted: Sequence[int], right: Sequence[int]) -> tuple[int, int, int, int]:
    """True and false positives, false and true negatives."""
    found = list(zip(predicted, right, strict=True))
    return found.count((1, 1)), found.count((1, 0)), found.count((0, 1)), found.count((0, 0))


def f1_formula(predicted: Sequence[int], right: Sequence[int]) -> float:
    """Van Rijsbergen 1979: 2 TP / (2 TP + FP + FN)."""
    tp, fp, fn, _ = counts(predicted, right)
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def matthews_formula(predicted: Sequence[int], right: Sequence[int]) -> float:
    """Matthews 1975."""
    tp, fp, fn, tn = counts(predicted, right)
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(below) if below else 0.0


def pearson_formula(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson 1895: covariance over the product of standard deviations."""
    one, other = statistics.fmean(first), statistics.fmean(second)
    above = math.fsum((x - one) * (y - other) for x, y in zip(first, second, strict=True))
    below = math.fsum((x - one) ** 2 for x in first) * math.fsum((y - other) ** 2 for y in second)
    return above / math.sqrt(below)


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 on; equal values share the mean of theirs."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def test_numbers_worked_out_by_hand() -> None:
    assert compute("sst2", PREDICTED, RIGHT) == {"accuracy": pytest.approx(7 / 10)}
    # Precision 4/5 and recall 4/6, so F1 is 8/11.
    assert compute("mrpc", PREDICTED, RIGHT) == {
        "accuracy": pytest.approx(0.7),
        "f1": pytest.approx(8 / 11),
        "combined_score": pytest.approx((0.7 + 8 / 11) / 2),
    }
    # (4 * 3 - 1 * 2) / sqrt(5 * 6 * 4 * 5)
    assert compute("cola", PREDICTED, RIGHT) == {"matthews_correlation": pytest.approx(10 / math.sqrt(600))}


def test_scores_worked_out_by_hand() -> None:
    # Means 1.9 and 2.1. Products of deviations: 1.54 + .09 + 1.44 + 6.09 - .11 = 9.05;
    # squares: 1.96 + .81 + .81 + 4.41 + 1.21 = 9.2 and 1.21 + .01 + 2.56 + 8.41 + .01 = 12.2.
    found = compute("stsb", SCORES, WANTED)
    assert found["pearson"] == pytest.approx(9.05 / math.sqrt(9.2 * 12.2))
    assert (ranks(SCORES), ranks(WANTED)) == ([1, 2.5, 2.5, 5, 4], [2, 3.5, 1, 5, 3.5])
    # Ranks around 3: 2 - .25 + 1 + 4 + .5 = 7.25; squares 4 + .25 + .25 + 4 + 1 = 9.5 and 1 + .25 + 4 + 4 + .25 = 9.5.
    assert found["spearmanr"] == pytest.approx(7.25 / 9.5)
    assert found["combined_score"] == pytest.approx((found["pearson"] + found["spearmanr"]) / 2)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60))
def test_classes_against_the_formulas(pairs: list[tuple[int, int]]) -> None:
    predicted, right = map(list, zip(*pairs, strict=True))
    found = compute(("accuracy", "f1", "matthews_correlation"), predicted, right)
    tp, fp, fn, tn = counts(predicted, right)
    assert found["accuracy"] == pytest.approx((tp + tn) / (tp + fp + fn + tn))
    assert found["f1"] == pytest.approx(f1_formula(predicted, right))
    assert found["matthews_correlation"] == pytest.approx(matthews_formula(predicted, right), abs=1e-12)


QUARTERS = st.integers(0, 20).map(lambda value: value / 4)


@given(st.lists(st.tuples(QUARTERS, QUARTERS), min_size=3, max_size=60))
def test_scores_against_the_formulas_with_many_ties(pairs: list[tuple[float, float]]) -> None:
    first, second = map(list, zip(*pairs, strict=True))
    found = compute("stsb", first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found == {"pearson": 0.0, "spearmanr": 0.0, "combined_score": 0.0}
    else:
        assert found["pearson"] == pytest.approx(pearson_formula(first, second), abs=1e-9)
        assert found["spearmanr"] == pytest.approx(pearson_formula(ranks(first), ranks(second)), abs=1e-9)


def test_a_model_that_always_says_the_same_scores_nothing_and_warns_of_nothing() -> None:
    assert compute("cola", [1, 1, 1], [1, 0, 1])["matthews_correlation"] == 0.0
    assert compute("mrpc", [0, 0], [1, 0])["f1"] == 0.0
    assert compute("stsb", [2.5, 2.5], [1.0, 2.0])["pearson"] == 0.0
    assert compute("stsb", [1.0, 1.0 + 1e-15, 1.0], [1.0, 2.0, 3.0])["spearmanr"] == pytest.approx(0.0, abs=1e-9)


def test_three_classes_have_an_accuracy() -> None:
    assert compute("mnli", [0, 1, 2, 2], [0, 1, 1, 2]) == {"accuracy": 0.75}


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="need equal counts above 0"):
        compute("cola", [], [])
    with pytest.raises(ValueError, match="need equal counts"):
        compute("cola", [1], [1, 0])
    with pytest.raises(UserError, match="not numbers: training diverged"):
        compute("stsb", [math.nan, 1.0], [1.0, 2.0])
    with pytest.raises(UserError, match="found metric bleu; need one of accuracy"):
        compute(("bleu",), [1], [1])
    with pytest.raises(UserError, match=r"found unknown task colla.*did you mean cola"):
        compute("colla", [1], [1])


@pytest.mark.parametrize("name", TASKS)
def test_the_module_of_evaluate_gives_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate: Any = pytest.importorskip("evaluate")
    metric = evaluate.load(str(modules_folder() / "glue"), name, cache_dir=str(tmp_path))
    values: Any = (SCORES, WANTED) if TASKS[name].regression else (PREDICTED, RIGHT)
    assert metric.compute(predictions=values[0], references=values[1]) == compute(name, *values)


def test_the_module_is_among_the_package_data(root: Path) -> None:
    import tomllib

    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["sharelora"]
    package = root / "sharelora"
    packed = {file for pattern in data for file in package.glob(pattern)}
    assert set(modules_folder().rglob("*.py")) <= packed
