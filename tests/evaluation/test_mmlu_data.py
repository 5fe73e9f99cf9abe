"""MMLU's questions: every file layout gives the same questions, prompts are the published ones, bad files are named."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sharelora.data.mmlu import CATEGORIES, category, load_mmlu
from sharelora.data.questions import PROMPTS, Question, examples_for
from sharelora.support import hub
from sharelora.support.errors import UserError

ROW = {"subject": "high_school_physics", "question": "What falls?", "choices": ["up", "it", "no", "all"], "answer": "B"}
QUESTION = Question("high_school_physics", "What falls?", ("up", "it", "no", "all"), "B")


def write(file: Path, *rows: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("name", ["test.jsonl", "test.jsonl.gz", "test.json", "zero_shot_mmlu_test.json"])
def test_the_layouts_give_the_same_questions(tmp_path: Path, name: str) -> None:
    row: dict[str, Any] = ROW
    if "shot" in name:
        prompt = PROMPTS["qlora"]
        row = {
            "subject": ROW["subject"],
            "input": prompt.prefix(QUESTION.subject) + prompt.item(QUESTION),
            "output": "B",
        }
    write(tmp_path / "mmlu" / name, row)
    assert load_mmlu("test", tmp_path) == [QUESTION]


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mmlu" / "val.jsonl", ROW | {"answer": 3})
    monkeypatch.setenv("SHARELORA_DATA", str(tmp_path))
    assert load_mmlu("val")[0].answer == "D"


def test_five_shot_files_hold_the_dev_split_too(tmp_path: Path) -> None:
    examples = [
        Question("logic", f"Is {n} odd?\n\nA. not an option", ("a", "b\nc", "d", "e"), "ABCDA"[n]) for n in range(5)
    ]
    prompt = PROMPTS["qlora"]
    rows = []
    for answer in "AC":
        asked = Question("logic", "And this?", ("a", "b", "c", "d"), answer)
        rows.append(
            {"subject": "logic", "input": prompt.prefix("logic", examples) + prompt.item(asked), "output": answer}
        )
    write(tmp_path / "mmlu" / "five_shot_mmlu_val.json", *rows)
    assert load_mmlu("dev", tmp_path) == examples
    assert [(q.question, q.answer) for q in load_mmlu("val", tmp_path)] == [("And this?", "A"), ("And this?", "C")]


def test_the_prompt_is_the_published_one() -> None:
    prompt = PROMPTS["qlora"]
    assert prompt.prefix(QUESTION.subject, [QUESTION]) + prompt.item(QUESTION) == (
        "The following are multiple choice questions (with answers) about  high school physics.\n\n"
        "What falls?\nA. up\nB. it\nC. no\nD. all\nAnswer: B\n\n"
        "What falls?\nA. up\nB. it\nC. no\nD. all\nAnswer:"
    )
    assert PROMPTS["original"] == prompt
    spaced = Question("logic", " What? ", ("a", "b"), "A")
    assert (
        PROMPTS["lm_eval"]
        .prefix("logic")
        .startswith("The following are multiple choice questions (with answers) about l")
    )
    assert PROMPTS["lm_eval"].item(spaced) == "What?\nA. a\nB. b\nAnswer:"
    assert prompt.item(spaced).startswith(" What? \n")


def test_examples_come_from_the_subject_in_order() -> None:
    dev = [Question(subject, str(n), ("a", "b"), "A") for n in range(3) for subject in ("x", "y")]
    assert [question.question for question in examples_for(dev, "y", 2)] == ["0", "1"]
    with pytest.raises(UserError, match="found 3 solved examples of x; need 5"):
        examples_for(dev, "x", 5)


def test_there_are_57_subjects_in_four_categories() -> None:
    assert {name: len(subjects) for name, subjects in CATEGORIES.items()} == {
        "STEM": 18,
        "humanities": 13,
        "social sciences": 12,
        "other": 14,
    }
    assert len({subject for subjects in CATEGORIES.values() for subject in subjects}) == 57
    assert category("anatomy") == "other" and category("velian_kinds") == "unlisted"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "E"}, "answer is 'E'"),
        ({"answer": "AB"}, "answer is 'AB'"),
        ({"answer": 4}, "answer is 4"),
        ({"answer": None}, "answer is None"),
        ({"choices": "abcd"}, "choices are 'abcd'"),
        ({"choices": ["a"]}, "choices are"),
        ({"choices": ["a", 2]}, "must be text"),
        ({"question": None}, "must be text"),
    ],
)
def test_a_malformed_question_names_file_and_row(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    write(tmp_path / "mmlu" / "test.jsonl", ROW, ROW | change)
    with pytest.raises(UserError, match=rf"test\.jsonl, row 2: .*{reason}"):
        load_mmlu("test", tmp_path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write(tmp_path / "mmlu" / "test.jsonl", {"subject": "x", "question": "y", "answer": "A"})
    with pytest.raises(UserError, match="row 1: no column 'choices'"):
        load_mmlu("test", tmp_path)


def test_a_prompt_without_options_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "mmlu" / "zero_shot_mmlu_test.json", {"subject": "x", "input": "Hello", "output": "A"})
    with pytest.raises(UserError, match="row 1: the prompt does not end with the options"):
        load_mmlu("test", tmp_path)


def test_missing_and_empty_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no data set MMLU for test in .*looked for mmlu/test, .* as \.jsonl"):
        load_mmlu("test", tmp_path)
    write(tmp_path / "mmlu" / "test.jsonl")
    with pytest.raises(UserError, match="empty"):
        load_mmlu("test", tmp_path)
    with pytest.raises(UserError, match="need one of dev, val, test"):
        load_mmlu("train", tmp_path)
    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hub cannot be reached.*--tiny"):
        load_mmlu("test")


def test_the_hub_is_asked_for_its_own_split_names(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load(path: str, name: str, split: str) -> Any:
        asked.append((path, name, split))
        return datasets.Dataset.from_list([ROW | {"answer": 1}])

    monkeypatch.delenv("SHARELORA_DATA", raising=False)
    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_mmlu("val") == [QUESTION] and load_mmlu("dev") == [QUESTION]
    assert asked == [("cais/mmlu", "all", "validation"), ("cais/mmlu", "all", "dev")]


@pytest.mark.realdata
def test_the_real_files(shared_data: Path) -> None:
    sizes = {split: len(load_mmlu(split, shared_data)) for split in ("dev", "val", "test")}
    assert sizes == {"dev": 285, "val": 1531, "test": 14042}
    counts = Counter(category(question.subject) for question in load_mmlu("test", shared_data))
    # The table of Hendrycks et al. 2021.
    assert counts == {"humanities": 4705, "social sciences": 3077, "STEM": 3018, "other": 3242}
