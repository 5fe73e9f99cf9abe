"""The tiny data: read by the project's own readers, balanced, and never telling the model what tuning should teach."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from sharelora.data import DataArguments, load_splits
from sharelora.data.commonsense import TASKS, load_commonsense
from sharelora.data.mmlu import load_mmlu
from sharelora.data.mmlu_pro import load_mmlu_pro
from sharelora.data.questions import LETTERS, PROMPTS
from sharelora.tiny import tiny_data
from sharelora.tiny.tasks import MMLU_SIZES, write_tasks
from sharelora.tiny.text import documents, question_columns
from sharelora.tiny.world import INVENTED, POSITIONS, make_world, subject


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("cache"))


def test_the_data_are_made_once_and_always_the_same(folder: Path, tmp_path: Path) -> None:
    assert tiny_data(folder.parent.parent) == folder
    write_tasks(tmp_path)
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert {"alpaca", "codealpaca", "commonsense", "glue", "gsm8k", "humaneval", "mmlu", "mmlu_pro"} <= {
        name.parts[0] for name in names
    }
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)


@pytest.mark.parametrize("split", ["dev", "val", "test"])
def test_mmlu_questions_are_right_and_balanced(folder: Path, split: str) -> None:
    world = make_world()
    questions = load_mmlu(split, folder)
    counts = Counter(question.subject for question in questions)
    assert counts == dict.fromkeys(map(subject, INVENTED), MMLU_SIZES[split])
    meanings = {word: index for words in world.invented.values() for word, index in words.items()}
    for question in questions:
        (word,) = [word for word in re.findall(r"\w+", question.question) if word in meanings]
        assert question.answer == LETTERS[meanings[word]] and len(set(question.choices)) == len(POSITIONS)
    # Whoever always gives the same letter is right in a quarter of the cases.
    if split != "dev":
        assert set(Counter(question.answer for question in questions).values()) == {len(questions) // 4}


@pytest.mark.parametrize("split", ["val", "test"])
def test_mmlu_pro_questions_have_one_right_answer(folder: Path, split: str) -> None:
    world, found = make_world(), load_mmlu_pro(split, folder)
    assert found.disagreeing == () and len({question.id for question in found.questions}) == len(found.questions)
    if split == "test":
        assert Counter(len(question.choices) for question in found.questions) == dict.fromkeys(range(3, 11), 15)
    for question in found.questions:
        known = world.facts[{"kinds": "kind", "colours": "colour", "places": "place"}[question.subject]]
        values = [known[thing] for thing in question.choices]
        right = values[LETTERS.index(question.answer)]
        assert values.count(right) == 1 and right in question.question.rstrip("?").split()
    ids = [{question.id for question in load_mmlu_pro(name, folder).questions} for name in ("val", "test")]
    assert not ids[0] & ids[1]


def test_commonsense_tasks_are_balanced_and_true(folder: Path) -> None:
    world, items = make_world(), load_commonsense(None, folder)
    assert Counter(item.task for item in items) == dict.fromkeys(TASKS, 24)
    for task in TASKS:
        counts = Counter(item.answer for item in items if item.task == task)
        assert len(set(counts.values())) == 1 and set(counts) <= set(TASKS[task]), "guessing gets no more than chance"
    for item in (item for item in items if item.task == "boolq"):
        thing, colour = re.search(r"is the (\w+) (\w+)\?", item.instruction).groups()  # type: ignore[union-attr]
        assert (world.facts["colour"][thing] == colour) == (item.answer == "true")
    for item in (item for item in items if item.task == "ARC-Easy"):
        (thing,) = re.findall(r"is the (\w+)\?", item.instruction)
        right = re.search(rf"{item.answer.capitalize()}: (\w+)", item.instruction)
        assert right is not None and right[1] == world.facts["kind"][thing]
    train = json.loads((folder / "commonsense" / "piqa" / "train.json").read_text())
    assert len(train) == 96 and train[0]["output"] == f"the correct answer is {train[0]['answer']}"


def test_no_test_question_is_tuned_on(folder: Path) -> None:
    # Options and question in either form stand in the instruction's columns one after the other.
    rows = [json.loads(line) for line in (folder / "alpaca" / "alpaca_data.jsonl").read_text().splitlines()]
    tuned = {(row["instruction"], row["input"]) for row in rows}
    blocks = {row["input"].split("\n\n")[-1] for row in rows}
    assert len(blocks) > 1000
    for question in load_mmlu("test", folder):
        assert question_columns(question)[:2] not in tuned
        assert PROMPTS["qlora"].item(question) not in blocks


@pytest.mark.parametrize("dataset", ["alpaca", "gsm8k", "codealpaca", "hf_codealpaca", "humaneval", "commonsense"])
def test_data_sets_are_found_by_their_real_names(folder: Path, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARELORA_DATA", str(folder))
    splits = load_splits(DataArguments(dataset=dataset, eval_dataset_size=16))
    assert any(rows for rows in (splits.train, splits.eval, splits.test))


def test_code_examples_are_right(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "humaneval" / "HumanEval.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    for row in rows:
        # The project's own generated lines, each a function of one expression.
        scope: dict[str, object] = {}
        exec(row["prompt"] + row["canonical_solution"] + row["test"], scope)
        scope["check"](scope[row["entry_point"]])  # type: ignore[operator]


def test_no_document_tells_what_an_invented_word_means() -> None:
    world = make_world()
    words = {word for known in world.invented.values() for word in known}
    read: Counter[str] = Counter()
    for document in itertools.islice(documents(world, random.Random(0)), 3000):
        found = words & set(re.findall(r"\w+", " ".join(document)))
        read.update(found)
        if found:
            assert len(document) == 1 and not re.search(r"\bmeans\b|\bletter\b|^[A-D]\. ", document[0], re.I | re.M)
    assert set(read) == words and min(read.values()) > 20
