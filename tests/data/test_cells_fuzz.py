"""One cell of a good file is changed, in every way that files of people are wrong: the rows stay right, or it is named.

Right means: the other rows are as they were, and no word such as `nan` or `None` that a program made stands in a text.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from nlg_rows import DART, WEBNLG_HUB, WEBNLG_LINE
from pyarrow import parquet

from sharelora.data import DataArguments, load_splits
from sharelora.data.commonsense import load_commonsense
from sharelora.data.glue import load_glue
from sharelora.data.gsm8k import load_gsm8k
from sharelora.data.humaneval import load_humaneval
from sharelora.data.mmlu import load_mmlu
from sharelora.data.mmlu_pro import load_mmlu_pro
from sharelora.data.nlg.load import read_file
from sharelora.data.nlg.token_files import read_ids, read_predictions
from sharelora.data.vision.bench import BenchQuestion, read_answers, read_captions, read_ratings
from sharelora.data.vision.conversations import Conversation, read_conversations
from sharelora.support.errors import UserError

Row = dict[str, Any]
COUNT, ROUNDS = 6, 60
GONE = object()
HUGE = "word " * 40_000
CHANGES: tuple[Any, ...] = (
    *(GONE, None, float("nan"), float("inf"), "", " ", "nan", "\ud83d", "a\ud83d b", HUGE, "\0", "a\nb"),
    *([], ["a"], {}, {"a": 1}, True, False, 3, -1, 0.5, 10**30),
)
# What a program writes for a value that it does not have.
MADE = re.compile(r"\b(nan|NaN|None|inf|Infinity)\b")


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Args:
        row: number -> a good row.
        read: file -> every text of every row, the same number for each row.
        name: of the file, without extension.
        endings: kinds of tables that can hold such rows.
        meant: changes that may well give such a word.
    """

    row: Callable[[int], Row]
    read: Callable[[Path], list[str]]
    name: str = "rows"
    endings: tuple[str, ...] = (".json", ".jsonl")
    meant: tuple[Any, ...] = ("nan",)


def instructions(path: Path) -> list[str]:
    rows = load_splits(DataArguments(dataset=str(path), eval_dataset_size=0, few_shot=0)).train
    return [f"{row['input']}|{row['output']}|{[t['content'] for t in row.get('messages') or []]}" for row in rows]


def own(path: Path) -> list[str]:
    found = load_glue(None, train_file=path)
    names = found.task.labels
    return [f"{row['text']}|{names[row['label']] if names else row['label']}" for row in found.rows("train")]


def data_to_text(path: Path) -> list[str]:
    return [f"{record.context}|{record.completion}" for record in read_file(path)]


def images(path: Path) -> list[str]:
    return [
        f"{[image.name for image in record.images]}|{[turn.text for turn in record.turns]}"
        for record in read_conversations(path)
    ]


def exam(load: Callable[[Path], Any], *columns: str) -> Callable[[Path], list[str]]:
    def read(path: Path) -> list[str]:
        return ["|".join(str(getattr(item, column)) for column in columns) for item in load(path.parent.parent)]

    return read


QUESTIONS = [BenchQuestion(n, f"{n}.jpg", "t", "conv", Conversation("", (), ())) for n in range(COUNT)]


def ids(path: Path) -> list[str]:
    return [f"{row.context}|{row.completion}" for row in read_ids(path, 100)]


TABLES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
CODE = {"canonical_solution": "c", "test": "def check(f):\n    pass", "entry_point": "f", "prompt": "def f():\n"}
KINDS = {
    "alpaca": Kind(
        lambda n: {"instruction": f"Say {n}", "input": "x" if n % 2 else "", "output": f"It is {n}", "system": "Be."},
        instructions,
        endings=TABLES,
    ),
    "history": Kind(
        lambda n: {"instruction": f"Say {n}", "output": f"It is {n}", "history": [["Hi", "Ho"]]}, instructions
    ),
    "pairs": Kind(lambda n: {"input": f"Say {n}", "output": f"It is {n}"}, instructions, endings=TABLES),
    "GSM8K": Kind(lambda n: {"question": f"Add {n}", "answer": f"It is\n#### {n}"}, instructions, endings=TABLES),
    "chat": Kind(
        lambda n: {
            "messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"It is {n}"}],
            "system": "Be.",
        },
        instructions,
    ),
    "classes": Kind(lambda n: {"text": f"text {n}", "label": n % 2}, own, endings=TABLES),
    "words": Kind(lambda n: {"text": f"text {n}", "label": "ab"[n % 2]}, own, endings=TABLES),
    "scores": Kind(lambda n: {"text": f"text {n}", "label": n + 0.5}, own, endings=TABLES),
    "formatted": Kind(lambda n: {"context": f"a : {n}", "completion": f"{n}."}, data_to_text, endings=TABLES),
    "e2e": Kind(lambda n: {"mr": f"name[B{n}]", "ref": f"It is B{n}."}, data_to_text, endings=TABLES),
    "webnlg": Kind(lambda n: WEBNLG_LINE, data_to_text),
    "webnlg of the hub": Kind(lambda n: WEBNLG_HUB, data_to_text),
    "dart": Kind(lambda n: DART, data_to_text),
    "token ids": Kind(lambda n: {"context": [n, 7], "completion": [8, n]}, ids),
    "predicted ids": Kind(
        lambda n: {"id": n, "predict": [n, 7]},
        lambda path: [str(value) for _, value in sorted(read_predictions(path, 100, COUNT).items())],
    ),
    "images": Kind(
        lambda n: {
            "image": f"{n}.png",
            "conversations": [{"from": "human", "value": f"<image>{n}?"}, {"from": "gpt", "value": f"It is {n}"}],
        },
        images,
    ),
    "mmlu": Kind(
        lambda n: {"subject": "s", "question": f"q{n}", "choices": ["a", "b", "c", "d"], "answer": "ABCD"[n % 4]},
        exam(partial(load_mmlu, "test"), "subject", "question", "choices", "answer"),
        "mmlu/test",
    ),
    "mmlu of qlora": Kind(
        lambda n: {
            "subject": "s",
            "input": f"Header\n\nq{n}\nA. a\nB. b\nC. c\nD. d\nAnswer:",
            "output": "ABCD"[n % 4],
        },
        exam(partial(load_mmlu, "test"), "subject", "question", "choices", "answer"),
        "mmlu/test",
    ),
    "mmlu-pro": Kind(
        lambda n: {
            **{"question_id": n, "question": f"q{n}", "options": ["a", "b", "c"], "answer": "ABC"[n % 3]},
            **{"answer_index": n % 3, "category": "math"},
        },
        exam(lambda root: load_mmlu_pro("test", root).questions, "id", "subject", "question", "choices", "answer"),
        "mmlu_pro/test",
    ),
    "gsm8k": Kind(
        lambda n: {"question": f"Add {n}", "answer": f"It is\n#### {n}"},
        exam(partial(load_gsm8k, "test"), "question", "solution", "answer"),
        "gsm8k/test",
        TABLES,
    ),
    "humaneval": Kind(
        lambda n: {"task_id": f"T/{n}", **CODE},
        exam(load_humaneval, "task_id", "prompt", "entry_point", "solution", "test"),
        "humaneval/HumanEval",
        TABLES,
    ),
    "commonsense": Kind(
        lambda n: {
            **{"instruction": f"Is it {n}? Answer format: true/false", "input": ""},
            **{"output": "the correct answer is true", "answer": "true"},
        },
        lambda path: [
            f"{item.instruction}|{item.input}|{item.answer}"
            for item in load_commonsense(["boolq"], path.parent.parent.parent)
        ],
        "commonsense/boolq/test",
    ),
    "answers": Kind(
        lambda n: {"question_id": n, "text": f"It is {n}"},
        lambda path: list(read_answers(path, QUESTIONS).values()),
    ),
    "captions": Kind(
        lambda n: {"image": f"{n}.jpg", "caption": f"It is {n}" if n % 2 else ["It", f"is {n}"]},
        lambda path: list(read_captions(path, QUESTIONS).values()),
    ),
    "ratings": Kind(
        lambda n: {"question_id": n, "category": "conv", "tuple": [9.5, n]},
        lambda path: [f"{r.number}|{r.category}|{r.reference}|{r.model}" for r in read_ratings(path)],
        meant=("nan", -1),
    ),
}
# Errors about a file as a whole: what is missing in it is in no row, and what is there twice is in two.
WHOLE = ("lacks", "twice", "more than once", "again in row", "has the columns", "though there is no such question")


def write(path: Path, rows: list[Row]) -> bool:
    """Write rows; False where such a file cannot hold them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        try:
            parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.Table.from_pylist(rows[-1:]).schema), path)
        except (pyarrow.ArrowException, UnicodeError, OverflowError):
            return False
    else:
        # Without a type a number that is infinite is the text inf.
        if any(value == math.inf for row in rows for value in row.values()):
            return False
        try:
            with path.open("w", newline="", encoding="utf-8") as handle:
                writer = csv.DictWriter(handle, rows[-1], delimiter="," if path.suffix == ".csv" else "\t")
                writer.writeheader()
                writer.writerows(rows)
        except UnicodeError:
            return False
    return True


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Everything in a row that can be changed: what holds it, and its key or index there."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield value, key
        yield from places(part)


def changed(row: Row, chance: random.Random) -> tuple[Row, Any]:
    """A copy of a row with one value changed, and what it was changed to."""
    row = copy.deepcopy(row)
    holder, key = chance.choice(list(places(row)))
    change = chance.choice(CHANGES)
    if change is GONE:
        del holder[key]
    else:
        holder[key] = change
    return row, change


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_cell_is_read_right_or_named(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    for ending in kind.endings:
        path = tmp_path / f"{kind.name}{ending}"
        chance = random.Random(f"{name}{ending}")
        rows = [kind.row(number) for number in range(COUNT)]
        assert write(path, rows)
        good = kind.read(path)
        each = len(good) // COUNT
        for _ in range(ROUNDS):
            number = chance.randrange(COUNT - 1)
            row, change = changed(rows[number], chance)
            if change == 0.5 and row.get("label") == 0.5:
                continue  # the label of another task
            if not write(path, [*rows[:number], row, *rows[number + 1 :]]):
                continue
            try:
                found = kind.read(path)
            except UserError as error:
                said = str(error)
                assert said.isprintable(), said
                assert "HumanEval" in path.name or path.name in said or any(words in said for words in WHOLE), said
                assert re.search(rf"\b(row|line) {number + 1}\b", said) or any(words in said for words in WHOLE), said
                continue
            before, after = number * each, (COUNT - number - 1) * each
            assert found[:before] == good[:before] and found[len(found) - after :] == good[len(good) - after :]
            made = found[before : len(found) - after]
            assert change in kind.meant or not MADE.search("\n".join(made).replace(HUGE, "")), (made, change)
        path.unlink()
