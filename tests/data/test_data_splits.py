"""Rows are split the same way for the same seed, never from the test split, and never silently."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_data import alpaca_rows

from sharelora.data import DataArguments, Splits, load_splits
from sharelora.support.errors import UserError

Write = Callable[..., Path]


@pytest.fixture
def file(write_rows: Write) -> str:
    return str(write_rows("rows.jsonl", alpaca_rows(100)))


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["instruction"] for row in rows]


def split(file: str, **options: Any) -> Splits:
    return load_splits(DataArguments(dataset=file, **options))


def test_validation_rows_come_from_train_by_the_seed_alone(file: str) -> None:
    first, again, other = (split(file, eval_dataset_size=20, data_seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert names(first.eval) != names(other.eval)
    assert len(first.eval) == 20 and len(first.train) == 80
    assert set(names(first.train)) | set(names(first.eval)) == set(names(alpaca_rows(100)))
    # Limits and lengths do not move the border between what is learnt and what is evaluated.
    limited = split(file, eval_dataset_size=20, data_seed=1, max_train_samples=5, source_max_len=7)
    assert names(limited.eval) == names(first.eval) and set(names(limited.train)) < set(names(first.train))


def test_a_fraction_and_none(file: str) -> None:
    assert len(split(file, eval_dataset_size=0.1).eval) == 10
    whole = split(file, eval_dataset_size=0)
    assert len(whole.train) == 100 and whole.eval == []


def test_too_large_a_validation_part_is_reduced_loudly(file: str, caplog: pytest.LogCaptureFixture) -> None:
    found = split(file)
    assert (len(found.train), len(found.eval)) == (90, 10)
    assert "asks for 1024 of only 100 rows; taking 10" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
    assert [len(split(file, eval_dataset_size=size).eval) for size in (50, 51, 0.6)] == [50, 10, 10]


def test_nothing_left_to_train_on_is_refused(write_rows: Write) -> None:
    file = write_rows("one.jsonl", alpaca_rows(1))
    with pytest.raises(UserError, match="leaves nothing to train on"):
        split(str(file))
    assert len(split(str(file), eval_dataset_size=0).train) == 1


def test_the_test_split_is_never_used_for_validation(tmp_path: Path, write_rows: Write) -> None:
    write_rows("gsm8k/train.jsonl", [{"question": f"train {n}", "answer": "#### 1"} for n in range(20)])
    write_rows("gsm8k/test.jsonl", [{"question": f"test {n}", "answer": "#### 1"} for n in range(5)])
    found = load_splits(DataArguments(dataset="gsm8k", eval_dataset_size=5), tmp_path)
    assert {row["question"].split()[0] for row in found.train + found.eval} == {"train"}
    assert {row["question"].split()[0] for row in found.test} == {"test"}
    assert len(found.eval) == len(found.test) == 5


def test_a_validation_split_of_its_own_is_used(tmp_path: Path, write_rows: Write) -> None:
    write_rows("longform/train.jsonl", [{"input": f"t{n}", "output": "x"} for n in range(5)])
    write_rows("longform/validation.jsonl", [{"input": f"v{n}", "output": "x"} for n in range(4)])
    found = load_splits(DataArguments(dataset="longform", max_eval_samples=2), tmp_path)
    assert len(found.train) == 5
    assert len(found.eval) == 2 and all(row["input"].startswith("v") for row in found.eval)


def test_limits_draw_from_the_whole_file_in_its_order(file: str) -> None:
    found = split(file, eval_dataset_size=0, max_train_samples=10)
    numbers = [int(name.split()[-1].rstrip(".")) for name in names(found.train)]
    assert len(numbers) == 10 and numbers == sorted(numbers) and max(numbers) > 10


def test_the_turns_of_a_conversation_stay_on_one_side(write_rows: Write) -> None:
    rows = [
        {"id": n, "messages": [{"role": role, "content": role} for role in ("user", "assistant") * 3]}
        for n in range(30)
    ]
    found = split(str(write_rows("chat.jsonl", rows)), eval_dataset_size=10)
    sides = [{row["id"] for row in part} for part in (found.train, found.eval)]
    assert (len(found.train), len(found.eval)) == (60, 30)
    assert not sides[0] & sides[1]


def test_gsm8k_has_its_worked_examples_and_says_what_it_removed(write_rows: Write) -> None:
    file = str(write_rows("q.jsonl", [{"question": "q", "answer": "<<1+1=2>>2\n#### 2"}] * 4))
    found = split(file, few_shot=3, eval_dataset_size=1, keep_calculator=False)
    assert len(found.demonstrations) == 3 and found.train[0]["output"] == " 2 The final answer is 2"
    assert any("--keep_calculator" in note for note in found.notes)
    assert split(file, eval_dataset_size=1).train[0]["output"].startswith(" <<1+1=2>>2")
    assert split(file, few_shot=0, eval_dataset_size=1).demonstrations == ()
    with pytest.raises(UserError, match="found few_shot 9; format GSM8K has 8 examples"):
        split(file, few_shot=9, eval_dataset_size=1)


def test_what_is_not_learnt_is_said_once_with_its_count(write_rows: Write) -> None:
    rows = [{"instruction": "a", "output": "" if n % 2 else "b", "weight": n} for n in range(20)]
    notes = split(str(write_rows("rows.jsonl", rows)), eval_dataset_size=2).notes
    assert "columns that are in no prompt and no answer: weight (19 of 20 rows)" in notes
    assert "10 answers are empty: there the end token alone is learnt" in notes
    assert len(split(str(write_rows("plain.jsonl", alpaca_rows(34)[1:17])), eval_dataset_size=2).notes) == 1


def test_a_row_is_named_by_its_place_in_the_file_after_a_choice_of_rows(write_rows: Write) -> None:
    rows = [{"input": "a", "output": "b", "subset": name} for name in ("x", "y", "y")]
    rows[2]["output"] = float("nan")
    file = write_rows("rows.jsonl", rows)
    with pytest.raises(UserError, match=f"{file}, row 3 has nothing in column output"):
        split(str(file), data_subset="y")


def test_prompts_without_answers_are_for_prediction_only(write_rows: Write) -> None:
    args = DataArguments(dataset=str(write_rows("prompts.jsonl", [{"instruction": "Sing."}])), dataset_format="alpaca")
    found = load_splits(args, predict_only=True)
    assert len(found.test) == 1 and found.test[0]["output"] is None and found.train == []
    with pytest.raises(UserError, match="found the columns instruction; format alpaca needs"):
        load_splits(args)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_max_len": 0}, "found source_max_len 0; need at least 1"),
        ({"target_max_len": -1}, "found target_max_len -1"),
        ({"pack_len": 0}, "found pack_len 0"),
        ({"max_train_samples": 0}, "found max_train_samples 0"),
        ({"few_shot": -1}, "found few_shot -1"),
        ({"eval_dataset_size": -1}, "found eval_dataset_size -1"),
        ({"eval_dataset_size": 1.5}, r"found eval_dataset_size 1\.5; need a whole number of rows or a fraction"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataArguments(**options)
