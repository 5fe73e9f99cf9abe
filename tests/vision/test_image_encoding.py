"""Conversations about images as tokens and batches: the processor's own way is the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from small_vision import row, write_rows

from sharelora.data.vision import (
    IMAGE,
    ConversationWriter,
    ImageReader,
    ImageTextCollator,
    encode,
    read_conversations,
)
from sharelora.data.vision.batches import spread
from sharelora.data.vision.tokens import tokenise
from sharelora.support.errors import UserError

ASKED = f"{IMAGE}\nWhat colour is the shape?"


def test_a_prompt_is_what_the_processor_makes_of_it(tmp_path: Path, writer: ConversationWriter) -> None:
    [record] = read_conversations(write_rows(tmp_path, row(ASKED)), need_answer=False)
    [piece] = writer.pieces(record)
    image = Image.open(record.images[0])
    reference = writer.reader.processor(images=[image], text=[piece.text], return_tensors="pt")
    [(ids, learnt)] = tokenise(writer, [record])
    found = spread(writer.reader, torch.tensor(ids), torch.tensor(learnt))
    assert torch.equal(found["input_ids"], reference["input_ids"][0])
    assert torch.equal(writer.reader.values([image])["pixel_values"], reference["pixel_values"])
    assert not any(learnt) and writer.reader.count == 16


def test_the_text_is_llavas(tmp_path: Path, writer: ConversationWriter) -> None:
    [record] = read_conversations(write_rows(tmp_path, row(f"{IMAGE}\nWhat?", "red", "Sure?", "yes")))
    whole = "".join(piece.text for piece in writer.pieces(record))
    assert whole.endswith("questions. USER: <image>\nWhat? ASSISTANT: red</s>USER: Sure? ASSISTANT: yes</s>")
    assert [piece.text for piece in writer.pieces(record) if piece.learnt] == [" red</s>", " yes</s>"]


def test_answers_alone_count_and_images_never(tmp_path: Path, writer: ConversationWriter) -> None:
    path = write_rows(tmp_path, row(ASKED, "red", "Sure?", "yes"), row(f"{IMAGE}{IMAGE}", "two", image=["a.png"] * 2))
    rows, report = encode(writer, read_conversations(path), 512, "train")
    reader = writer.reader
    for place, (images, words) in enumerate([(1, " red</s> yes</s>"), (2, " two</s>")]):
        item = rows[place]
        assert (item["input_ids"] == reader.token_id).sum() == 16 * images
        assert len(item["pixel_values"]) == images
        assert len(item["input_ids"]) == item["length"] == rows.lengths[place]
        learnt = item["labels"][item["labels"] != -100]
        assert reader.tokenizer.decode(learnt) == words
        assert item["input_ids"][0] == reader.tokenizer.bos_token_id
    assert (report.cut, report.left_out, report.longest) == (0, 0, max(rows.lengths))


def test_what_is_too_long_is_cut_or_left_out_and_counted(tmp_path: Path, writer: ConversationWriter) -> None:
    long = "red " * 50
    path = write_rows(tmp_path, row(ASKED, long), row(ASKED, "red"), row(f"{'why ' * 90}{IMAGE}", "red"))
    records = read_conversations(path)
    lengths = encode(writer, records, 4096, "train")[0].lengths
    limit = int(lengths[1])
    rows, report = encode(writer, records, limit, "train")
    assert (report.rows, report.cut, report.left_out, report.longest) == (3, 1, 1, max(lengths))
    assert len(rows) == 2 and rows.lengths[0] >= limit
    assert len(rows[0]["input_ids"]) == limit == rows.lengths[1]
    assert "LEFT OUT" in "\n".join(report.lines())
    with pytest.raises(UserError, match="found no train row that fits into 20 tokens"):
        encode(writer, records, 20, "train")


def test_a_batch_is_padded_and_has_all_images(tmp_path: Path, writer: ConversationWriter) -> None:
    path = write_rows(tmp_path, row(ASKED, "red"), row("Hello", "hi there you all", image=None))
    rows, report = encode(writer, read_conversations(path), 512, "train")
    assert report.without_image == 1
    for left in (False, True):
        batch = ImageTextCollator(writer.reader, 2, left)([rows[0], rows[1]])
        assert batch["pixel_values"].shape == (1, 3, 32, 32)
        assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
        short = batch["attention_mask"][batch["attention_mask"].sum(1).argmin()]
        assert (short[0], short[-1]) == ((0, 1) if left else (1, 0))
        assert (batch["input_ids"][batch["attention_mask"] == 0] == 2).all()
        assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_a_batch_without_images_gets_one_that_teaches_nothing(tmp_path: Path, writer: ConversationWriter) -> None:
    rows, _ = encode(writer, read_conversations(write_rows(tmp_path, row("Hello", "hi", image=None))), 512, "train")
    batch = ImageTextCollator(writer.reader, 2)([rows[0]])
    assert batch["pixel_values"].shape == (1, 3, 32, 32)
    assert (batch["labels"][1] == -100).all() and (batch["input_ids"] == writer.reader.token_id).sum() == 16


def test_a_template_that_loses_images_or_changes_its_beginning_is_refused(tmp_path: Path, reader: ImageReader) -> None:
    [record] = read_conversations(write_rows(tmp_path, row(ASKED, "red")))
    template = tmp_path / "one.jinja"
    template.write_text("{% for turn in messages %}{{ turn.role }}{% endfor %}")
    with pytest.raises(UserError, match=r"writes 0 places for the 1 images of .*row 1"):
        ConversationWriter(reader, str(template)).pieces(record)
    template.write_text("{{ messages | length }}{% for turn in messages %}{{ turn.content }}{% endfor %}")
    with pytest.raises(UserError, match="does not keep what it wrote before"):
        ConversationWriter(reader, str(template)).pieces(record)
    with pytest.raises(UserError, match="this model has no chat template; need one"):
        ConversationWriter(reader, "own")


class Tiles:
    """A processor that cuts large images into more tiles."""

    image_token_ids = (5,)

    def image_processor(self, images: list[Image.Image], return_tensors: str) -> Image.Image:
        return images[0]

    def replace_image_token(self, image: Image.Image, index: int) -> str:
        return "<image>" * (image.width // 8)


def test_a_processor_with_a_varying_number_of_tokens_is_refused() -> None:
    from sharelora.data.vision import image_reader

    with pytest.raises(UserError, match="Tiles turns images of different sizes into different numbers of tokens"):
        image_reader(Tiles())
