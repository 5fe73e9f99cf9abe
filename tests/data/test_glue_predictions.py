"""Submission files are what GLUE's server takes: its names, its header, its way to write classes and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from glue_files import write_official

from sharelora.data.glue import TASKS, GlueTask, load_glue, write_predictions
from sharelora.support.errors import UserError

LOGITS = np.array([[0.1, 2.0], [3.0, -1.0]])


def test_classes_are_written_as_in_the_official_files(tmp_path: Path) -> None:
    path = write_predictions(tmp_path / "out", TASKS["cola"], "test", LOGITS)
    assert path == tmp_path / "out" / "CoLA.tsv"
    assert path.read_text() == "index\tprediction\n0\t1\n1\t0\n"
    path = write_predictions(tmp_path, TASKS["rte"], "test", LOGITS)
    assert path.name == "RTE.tsv" and path.read_text() == "index\tprediction\n0\tnot_entailment\n1\tentailment\n"


def test_both_files_of_mnli_and_the_rows_own_numbers(tmp_path: Path) -> None:
    write_official(tmp_path)
    rows = load_glue("mnli", data_root=tmp_path).rows("test_mismatched")
    logits = np.array([[0.0, 0.0, 1.0]])
    names = [write_predictions(tmp_path, TASKS["mnli"], split, logits).name for split in TASKS["mnli"].test_splits]
    assert names == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    path = write_predictions(tmp_path, TASKS["mnli"], "test_mismatched", logits, [row["idx"] for row in rows])
    assert path.read_text() == "index\tprediction\n9847\tcontradiction\n"


def test_scores_have_three_decimals_and_only_those_of_stsb_are_clipped(tmp_path: Path) -> None:
    scores = np.array([[-0.2], [2.34567], [7.0]], dtype=np.float32)
    path = write_predictions(tmp_path, TASKS["stsb"], "test", scores)
    assert path.name == "STS-B.tsv" and path.read_text() == "index\tprediction\n0\t0.000\n1\t2.346\n2\t5.000\n"
    own = GlueTask("own", "", ("text",), (), ("pearson",), submission={"test": "predictions.tsv"})
    assert write_predictions(tmp_path, own, "test", scores[:, 0]).read_text().split() == [
        *("index", "prediction"),
        *("0", "-0.200", "1", "2.346", "2", "7.000"),
    ]


def test_what_is_not_a_number_or_not_the_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not numbers: training diverged"):
        write_predictions(tmp_path, TASKS["stsb"], "test", np.array([np.nan]))
    with pytest.raises(ValueError, match=r"logits of shape \(2, 2\) for 3 classes"):
        write_predictions(tmp_path, TASKS["mnli"], "test_matched", LOGITS)
    assert list(tmp_path.iterdir()) == []
