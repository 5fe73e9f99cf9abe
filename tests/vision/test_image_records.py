"""LLaVA's json and its images: what is read, and what is wrong with a row or a file, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from small_vision import row, write_rows

from sharelora.data.vision import IMAGE, read_conversations, require_images
from sharelora.data.vision.images import open_image
from sharelora.support.errors import UserError
from sharelora.training.vision.data import load_records
from sharelora.training.vision.options import VisionOptions

ASKED = f"{IMAGE}\nWhat is it?"


def test_a_row_is_read(tmp_path: Path) -> None:
    path = write_rows(tmp_path, row(ASKED, "red", "Sure?", "yes"), row("Hello", "hi", image=None))
    first, second = read_conversations(path)
    assert first.name == f"{path}, row 1 (id 7)" and first.images == (tmp_path / "a.png",)
    assert [(turn.role, turn.text) for turn in first.turns] == [
        ("user", ASKED),
        ("assistant", "red"),
        ("user", "Sure?"),
        ("assistant", "yes"),
    ]
    assert second.images == () and len(second.turns) == 2
    require_images([first, second])


def test_several_images_and_another_folder(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    path = write_rows(tmp_path, row(f"{IMAGE}{IMAGE}\nWhich?", "a", image=["a.png", "b.png"]))
    [record] = read_conversations(path, images)
    assert record.images == (images / "a.png", images / "b.png")


def test_an_answer_at_the_start_and_a_question_at_the_end_are_not_learnt(tmp_path: Path) -> None:
    turns = row("x", "y", ASKED, "red", "More?")
    turns["conversations"][0]["from"] = "gpt"
    del turns["conversations"][1]
    [record] = read_conversations(write_rows(tmp_path, turns))
    assert [turn.text for turn in record.turns] == [ASKED, "red"]
    asked = write_rows(tmp_path, row(ASKED))
    assert len(read_conversations(asked, need_answer=False)[0].turns) == 1


HUB, FILES = "data/{}-00000-of-00001.parquet", "{}.jsonl"


@pytest.mark.parametrize("layout", [HUB, FILES, None])
def test_a_folder_is_read_as_other_data_are(tmp_path: Path, layout: str | None) -> None:
    """In the hub's layout, with a file a split, and as `save_to_disk` leaves it."""
    splits = {
        "train": [row(ASKED, "red"), row("Hello", "hi", image=None)],
        "validation": [row(ASKED, "blue", image="b.png")],
    }
    write_rows(tmp_path).unlink()
    tables = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})
    if layout is None:
        tables.save_to_disk(str(tmp_path))
    else:
        (tmp_path / "data").mkdir()
        for split, table in tables.items():
            write = table.to_parquet if layout == HUB else table.to_json
            write(tmp_path / layout.format(split))
    options = VisionOptions(data_path=str(tmp_path), eval_dataset_size=1)
    found = load_records(options, tiny=False, need_train=True, need_eval=True)
    assert [record.turns[1].text for record in found.train] == ["red", "hi"]  # none of them is held out
    assert [record.images for record in found.train] == [(tmp_path / "a.png",), ()]
    assert [(record.turns[1].text, record.images) for record in found.eval] == [("blue", (tmp_path / "b.png",))]


def test_a_folder_without_validation_holds_rows_out(tmp_path: Path) -> None:
    write_rows(tmp_path, *(row(ASKED, word) for word in "abcd")).rename(tmp_path / "train.json")
    found = load_records(VisionOptions(data_path=str(tmp_path), eval_dataset_size=1), False, True, True)
    assert len(found.train) == 3 and len(found.eval) == 1


def test_images_inside_of_a_table_are_refused_in_a_short_line(tmp_path: Path) -> None:
    inside = row(ASKED, "red", image={"bytes": b"x" * 10_000, "path": "a.png"})
    datasets.Dataset.from_list([inside]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"has the image .*need a file's name or a list of them") as error:
        read_conversations(tmp_path)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row("What is it?", "red"), "has 0 <image> places and 1 images"),
        (row(f"{IMAGE} {IMAGE}", "red"), "has 2 <image> places and 1 images"),
        (row(ASKED, "red", image=None), "has 1 <image> places and 0 images"),
        (row(ASKED, "red", image=["a.png", "b.png"]), "has 1 <image> places and 2 images"),
        (row(ASKED, IMAGE), "has 1 <image> in an answer"),
        (row(ASKED), "no answer of gpt"),
        (row(ASKED, "red", image=3), "has the image 3"),
        ({"id": "7", "image": "a.png"}, "no list of turns in `conversations`"),
        ({"id": "7", "conversations": [{"from": "robot", "value": "x"}]}, "need `from` human or gpt"),
        ({"id": "7", "conversations": [{"from": "human", "value": "x"}] * 2}, "must take turns"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: dict[str, Any], words: str) -> None:
    path = write_rows(tmp_path, row(ASKED, "red"), bad)
    with pytest.raises(UserError, match=r"rows.json, row 2 \(id 7\)") as error:
        read_conversations(path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_missing_and_unreadable_images_are_named_with_their_rows(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    rows = [row(ASKED, "x", image=name) for name in ("a.png", "text.png", "gone.png", "text.png", "none.png")]
    with pytest.raises(UserError) as error:
        require_images(read_conversations(write_rows(tmp_path, *rows)))
    said = str(error.value)
    assert said.startswith(f"found 4 images that cannot be used: {tmp_path}/rows.json, row 2 (id 7): ")
    assert f"{tmp_path / 'text.png'} is not a readable image" in said and f"{tmp_path / 'gone.png'} is missing" in said
    assert "and 1 more" in said and "\n" not in said


def test_an_image_that_was_cut_short_is_named_when_it_is_opened(tmp_path: Path) -> None:
    [record] = read_conversations(write_rows(tmp_path, row(ASKED, "x")))
    data = record.images[0].read_bytes()
    record.images[0].write_bytes(data[: len(data) // 2])
    require_images([record])
    with pytest.raises(UserError, match=r"rows.json, row 1 \(id 7\): the image .*a.png cannot be read"):
        open_image(record.images[0], record.name)
