"""Tokens and batches of one or two texts: nothing lost silently, padding never seen, whatever the model's writing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_data import byte_tokenizer
from tokenizers import processors

from sharelora.data.glue import TASKS, GlueCollator, GlueTask, encode
from sharelora.support.errors import UserError

ROWS = [
    {"sentence1": "Name three fruits.", "sentence2": "pears", "label": 1, "idx": 0},
    {"sentence1": "How many apples are 2 + 3?", "sentence2": "apples and more and more " * 4, "label": 0, "idx": 1},
    {"sentence1": "a", "sentence2": "b", "label": 1, "idx": 2},
]


@pytest.fixture(scope="module")
def bert() -> Any:
    """A tokenizer that writes pairs as BERT's does, token types included."""
    made = byte_tokenizer(bos="<s>", eos="</s>", pad="<pad>")
    template: Any = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    made.backend_tokenizer.post_processor = template
    made.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return made


@pytest.fixture(scope="module")
def roberta(bert: Any) -> Any:
    made = byte_tokenizer(bos="<s>", eos="</s>", pad="<pad>")
    made.backend_tokenizer.post_processor = bert.backend_tokenizer.post_processor
    made.model_input_names = ["input_ids", "attention_mask"]
    return made


def test_pairs_are_written_as_the_tokenizer_writes_them(bert: Any) -> None:
    found, cut = encode(ROWS, TASKS["mrpc"], bert, 512)
    assert cut == 0 and len(found) == 3
    for row, item in zip(ROWS, (found[index] for index in range(3)), strict=True):
        whole = bert(row["sentence1"], row["sentence2"])
        assert (
            item["input_ids"].tolist() == whole["input_ids"]
            and item["token_type_ids"].tolist() == whole["token_type_ids"]
        )
        assert item["length"] == len(whole["input_ids"]) and set(whole["token_type_ids"]) == {0, 1}
        assert item["labels"].item() == row["label"] and item["labels"].dtype == torch.int64
    assert found.lengths == [len(bert(row["sentence1"], row["sentence2"])["input_ids"]) for row in ROWS]


def test_no_token_types_where_the_model_takes_none(roberta: Any) -> None:
    found, _ = encode(ROWS, TASKS["mrpc"], roberta, 512)
    assert set(found[0]) == {"input_ids", "length", "labels"}
    assert set(GlueCollator(2)([found[0], found[1]])) == {"input_ids", "attention_mask", "labels"}


def test_long_rows_are_cut_and_counted(bert: Any) -> None:
    found, cut = encode(ROWS, TASKS["mrpc"], bert, 24)
    assert cut == 1 and max(found.lengths) == 24
    item, whole = found[1], bert(ROWS[1]["sentence1"], ROWS[1]["sentence2"], truncation=True, max_length=24)
    assert (
        item["input_ids"].tolist() == whole["input_ids"] and item["token_type_ids"].tolist() == whole["token_type_ids"]
    )
    # The other rows are as they were.
    assert found[0]["input_ids"].tolist() == encode(ROWS, TASKS["mrpc"], bert, 512)[0][0]["input_ids"].tolist()


def test_batches_are_padded_to_the_longest_row_and_masked_by_length(bert: Any) -> None:
    found, _ = encode(ROWS, TASKS["mrpc"], bert, 512)
    batch = GlueCollator(bert.pad_token_id)([found[0], found[2]])
    assert batch["input_ids"].shape == (2, max(found.lengths[0], found.lengths[2]))
    assert batch["attention_mask"].sum(dim=1).tolist() == [found.lengths[0], found.lengths[2]]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == bert.pad_token_id).all()
    assert batch["token_type_ids"].shape == batch["input_ids"].shape and batch["labels"].tolist() == [1, 1]
    wide = GlueCollator(bert.pad_token_id, multiple_of=8)([found[0], found[2]])
    assert wide["input_ids"].shape[1] % 8 == 0 and wide["attention_mask"].sum() == batch["attention_mask"].sum()


def test_padding_with_a_token_of_the_text_hides_none(bert: Any) -> None:
    found, _ = encode(ROWS, TASKS["mrpc"], bert, 512)
    batch = GlueCollator(bert.eos_token_id)([found[0], found[1]])
    assert batch["attention_mask"].sum(dim=1).tolist() == found.lengths[:2]


def test_padding_to_the_full_length_changes_only_the_padding(bert: Any) -> None:
    found, _ = encode(ROWS, TASKS["mrpc"], bert, 512)
    full, _ = encode(ROWS, TASKS["mrpc"], bert, 48, pad_to_max_length=True)
    batch = GlueCollator(bert.pad_token_id)([full[0], full[2]])
    assert batch["input_ids"].shape == (2, 48) and full.lengths[0] == found.lengths[0]
    for place, index in enumerate((0, 2)):
        kept = batch["input_ids"][place][batch["attention_mask"][place] == 1]
        assert kept.tolist() == found[index]["input_ids"].tolist()


def test_single_texts_scores_and_rows_without_labels(roberta: Any) -> None:
    own = GlueTask("own", "", ("text",), (), ("pearson",))
    found, _ = encode([{"text": "a", "label": 2}, {"text": "b c", "label": 0.5}], own, roberta, 16)
    batch = GlueCollator(2)([found[0], found[1]])
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [2.0, 0.5]
    blind, _ = encode([{"text": "a", "idx": 0}], own, roberta, 16)
    assert "labels" not in GlueCollator(2)([blind[0]])
    assert len(encode([], own, roberta, 16)[0]) == 0


def test_a_length_without_room_is_refused(bert: Any) -> None:
    with pytest.raises(UserError, match="found max_seq_length 4; need at least 5; raise --max_seq_length"):
        encode(ROWS, TASKS["mrpc"], bert, 4)
    assert encode(ROWS, TASKS["mrpc"], bert, 5)[1] == 2
