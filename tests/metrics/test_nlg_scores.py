"""All metrics of a task together, by the names of the official scripts, and as modules of `evaluate`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharelora.metrics import java, modules_folder
from sharelora.metrics.nlg import E2E, WEBNLG, chosen, score_e2e, score_webnlg
from sharelora.metrics.segments import as_rectangle, as_streams, check, with_words
from sharelora.support.errors import UserError

HYPOTHESES = ["The Mill is near the river .", "Fitzbillies , a coffee shop , is cheap ."]
REFERENCES = [["The Mill is by the river .", "Near the river is The Mill ."], ["Fitzbillies is a cheap coffee shop ."]]

needs_java = pytest.mark.skipif(not java.available(), reason=f"METEOR needs {java.missing()}")


def test_the_shapes_that_libraries_want() -> None:
    texts = [["a", "", "b"], ["c", " "]]
    assert with_words(texts) == [["a", "b"], ["c"]]
    assert as_streams(with_words(texts)) == [["a", "c"], ["b", None]]
    assert as_rectangle(with_words(texts)) == [["a", "b"], ["c", "c"]]


@pytest.mark.parametrize(
    ("hypotheses", "references", "words"),
    [
        (["a"], [["a"], ["b"]], "found 1 hypotheses for 2 lists of references"),
        ([], [], "found no segments"),
        (["a", "b", "c"], [["a"], [], ["", " "]], "segment 2 and 1 more of 3 has no reference with words"),
    ],
)
def test_what_cannot_be_scored(hypotheses: list[str], references: list[list[str]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check(hypotheses, references)
    with pytest.raises(UserError, match=words):
        score_e2e(hypotheses, references, without=["METEOR"])


def test_metrics_are_left_out_by_name_in_any_case() -> None:
    assert list(chosen(E2E, ["meteor", "cider"])) == ["BLEU", "NIST", "ROUGE_L"]
    with pytest.raises(UserError, match="found metric chrf; need one of BLEU, METEOR, TER"):
        chosen(WEBNLG, ["chrf"])


def test_java_is_missed_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(java.shutil, "which", lambda name: "java")
    monkeypatch.setenv(java.FOLDER, str(tmp_path))
    with pytest.raises(UserError, match=r"METEOR needs .*meteor-1\.5\.jar .*pip install"):
        score_webnlg(HYPOTHESES, REFERENCES)
    monkeypatch.delenv(java.FOLDER)
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"METEOR needs the package pycocoevalcap .*--without meteor"):
        score_e2e(HYPOTHESES, REFERENCES)


def test_they_are_modules_of_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    given = {"predictions": HYPOTHESES, "references": REFERENCES, "without": ["METEOR"]}
    for name, score in (("e2e_nlg", score_e2e), ("webnlg", score_webnlg)):
        module = evaluate.load(str(modules_folder() / name), cache_dir=str(tmp_path))
        assert module.compute(**given) == score(HYPOTHESES, REFERENCES, without=["METEOR"])


@pytest.mark.slow
@needs_java
def test_meteor_is_worked_out_by_hand() -> None:
    from sharelora.metrics.java import meteor

    # Content words only: all of the hypothesis, two thirds of the reference; alpha 0.85. One chunk of two matches; beta
    # 0.2, gamma 0.6.
    mean = (2 / 3) / (0.85 + 0.15 * 2 / 3)
    penalty = 0.6 * (1 / 2) ** 0.2
    assert meteor(["zebra table"], [["zebra table window"]]) == pytest.approx(mean * (1 - penalty), abs=1e-6)


@pytest.mark.slow
@needs_java
def test_meteor_is_the_number_of_the_caption_code() -> None:
    from pycocoevalcap.meteor.meteor import Meteor

    from sharelora.metrics.java import meteor

    truth, found = dict(enumerate(REFERENCES)), {place: [text] for place, text in enumerate(HYPOTHESES)}
    program = Meteor()
    expected, _ = program.compute_score(truth, found)
    program.meteor_p.stdin.close()
    program.meteor_p.stdout.close()
    assert meteor(HYPOTHESES, REFERENCES) == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
@needs_java
def test_all_metrics_of_the_references_themselves() -> None:
    right = [texts[0] for texts in REFERENCES]
    scores = score_e2e(right, REFERENCES)
    assert list(scores) == ["BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"]
    assert [scores[name] for name in ("BLEU", "METEOR", "ROUGE_L")] == pytest.approx([1.0] * 3)
    assert score_webnlg(right, REFERENCES) == {"BLEU": pytest.approx(1.0), "METEOR": pytest.approx(1.0), "TER": 0.0}
