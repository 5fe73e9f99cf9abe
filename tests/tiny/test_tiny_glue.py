"""The nine tasks in small: official files that the project's own reader takes, balanced, and no text in two splits."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sharelora.data.glue import TASKS, load_glue
from sharelora.tiny import tiny_data
from sharelora.tiny.glue import HEADERS, SCORES, SIZES, TEST_HEADERS
from sharelora.tiny.scenes import ANSWERS, BAD, DAYS, GOOD, HAPPENINGS, OPEN, QUESTIONS, REFERENCES, encoder_documents
from sharelora.tiny.world import make_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("name", TASKS)
def test_splits_are_whole_balanced_and_apart(name: str, folder: Path) -> None:
    found = load_glue(name, data_root=folder)
    assert tuple(found.splits) == found.task.splits
    seen: set[tuple[str, ...]] = set()
    for split, rows in found.splits.items():
        texts = {tuple(row[column] for column in found.task.columns) for row in rows}
        assert len(rows) == len(texts) == SIZES[split.partition("_")[0]] and not texts & seen
        seen |= texts
        if split in found.task.test_splits:
            assert all("label" not in row for row in rows) and [row["idx"] for row in rows] == list(range(len(rows)))
        else:
            counts = Counter(row["label"] for row in rows)
            assert len(counts) == (SCORES if found.task.regression else found.task.num_labels)
            assert max(counts.values()) - min(counts.values()) <= 1


def test_headers_hold_the_columns_that_the_reader_asks_for() -> None:
    for name, task in TASKS.items():
        texts = set(task.tsv_columns or task.columns)
        assert {*texts, task.tsv_label} <= set(HEADERS[name].split("\t"))
        assert texts <= set(TEST_HEADERS.get(name, HEADERS[name]).split("\t"))


def words(text: str) -> set[str]:
    return set(text.replace(".", " ").replace(",", " ").replace("?", " ").replace("!", " ").split())


def fits(text: str, way: str) -> bool:
    """Whether a sentence is made from a way to say something: all its fixed words are there."""
    return {word for word in words(way) if not word.startswith("{")} <= words(text)


def which(text: str, ways: dict[Any, tuple[str, ...]]) -> Any:
    """What a sentence is about: the entry with the longest fitting way."""
    found = [(len(way), name) for name, every in ways.items() for way in every if fits(text, way)]
    assert found, text
    return max(found)[1]


TOLD = {name: happening.ways for name, happening in HAPPENINGS.items()}
FOLLOWS = {**{name: happening.follows for name, happening in HAPPENINGS.items()}, "open": OPEN}


def rows_of(name: str, folder: Path, split: str = "dev") -> list[tuple[str, str, Any]]:
    found = load_glue(name, data_root=folder)
    first, second = found.task.columns
    return [(row[first], row[second], row["label"]) for row in found.rows(split)]


def test_labels_of_paraphrases_and_similarities_are_true(folder: Path) -> None:
    for first, second, label in rows_of("mrpc", folder):
        assert label == int(which(first, TOLD) == which(second, TOLD))
    for first, second, label in rows_of("qqp", folder):
        assert label == int(which(first, dict(QUESTIONS)) == which(second, dict(QUESTIONS)))
    for first, second, score in rows_of("stsb", folder):
        one, other = which(first, TOLD), which(second, TOLD)
        same = 4 * (one == other) or 2 * (HAPPENINGS[one].kind == HAPPENINGS[other].kind)
        assert score == same + (words(first) & set(DAYS) == words(second) & set(DAYS))


@pytest.mark.parametrize(("name", "split"), [("rte", "dev"), ("mnli", "dev_matched"), ("mnli", "dev_mismatched")])
def test_labels_of_entailment_are_true(name: str, split: str, folder: Path) -> None:
    labels = TASKS[name].labels
    for first, second, label in rows_of(name, folder, split):
        told, follows = which(first, TOLD), which(second, FOLLOWS)
        expected = "neutral" if follows == "open" else "entailment" if told == follows else labels[-1]
        assert labels[label] == expected


def test_labels_of_answers_and_references_are_true(folder: Path) -> None:
    for first, second, label in rows_of("qnli", folder):
        answered = which(second, {name: (way,) for name, way in ANSWERS.items()})
        assert label == int(which(first, dict(QUESTIONS)) != answered)
    for first, second, label in rows_of("wnli", folder):
        meant = next(claim for way, claim in REFERENCES if fits(first, way))
        assert label == int(second == meant)


def test_praise_and_word_order(folder: Path) -> None:
    for row in load_glue("sst2", data_root=folder).rows("dev"):
        assert bool(words(row["sentence"]) & set(GOOD)) is (row["label"] == 1)
        assert bool(words(row["sentence"]) & set(BAD)) is (row["label"] == 0)
    orders = {way.partition("{")[0] for ways in TOLD.values() for way in ways}
    acceptable = [row["sentence"] for row in load_glue("cola", data_root=folder).rows("dev") if row["label"]]
    assert all(any(sentence.startswith(order) for order in orders) for sentence in acceptable)


def test_what_the_encoder_reads_fits_and_has_no_label() -> None:
    for document in itertools.islice(encoder_documents(make_world(), random.Random(0)), 500):
        assert 1 <= len(document) <= 2
        first, second = document[0], document[-1]
        told = [name for name, ways in TOLD.items() if any(fits(first, way) for way in ways)]
        follows = [name for name, ways in FOLLOWS.items() if any(fits(second, way) for way in ways)]
        if told and follows and follows != ["open"]:
            assert told == follows
