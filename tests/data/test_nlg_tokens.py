"""Tokens: where the separator goes, what counts in the loss, what is cut and how that is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nlg_rows import write_lines
from small_data import byte_tokenizer

from sharelora.data import TrainCollator
from sharelora.data.nlg import Encoded, Record, encode_records, load_encoded, token_rows
from sharelora.data.nlg.token_files import text_of
from sharelora.evaluation.beam.inputs import load_prompts
from sharelora.support.errors import UserError

RECORDS = [Record("name : Cotto", "Cotto is a café ."), Record("name : Blue Spice | near : it", "Blue .")]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """GPT-2's kind: one special token, which begins, separates and ends."""
    return byte_tokenizer(bos="<|endoftext|>", eos="<|endoftext|>")


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_row_is_input_separator_space_text_end(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    first = encode_records(tokenizer, RECORDS)[0]
    assert first.context == [*ids(tokenizer, "name : Cotto"), end]
    assert first.completion == [*ids(tokenizer, " Cotto is a café ."), end]
    plain = encode_records(tokenizer, RECORDS, add_separator=False, add_end=False)[0]
    assert plain.context + plain.completion == first.context[:-1] + first.completion[:-1]
    assert tokenizer.decode(first.context[:-1]) == RECORDS[0].context
    assert text_of(tokenizer, first.completion) == RECORDS[0].completion


@pytest.mark.parametrize("objective", ["clm", "jlm"])
def test_the_loss_is_on_what_loras_mask_keeps(tokenizer: Any, objective: str) -> None:
    """LoRA shifts first: of the T - 1 predictions, clm drops those of the input's tokens but keeps the text's first."""
    rows, _ = token_rows(encode_records(tokenizer, RECORDS), 64, objective)
    for index, row in enumerate(encode_records(tokenizer, RECORDS)):
        whole = row.context + row.completion
        before = 0 if objective == "jlm" else len(row.context) - 1
        shifted = rows.labels(index)[1:].tolist()
        assert rows.ids(index).tolist() == whole
        assert shifted == [-100] * before + whole[1 + before :]


def test_batches_are_as_long_as_their_longest_row(tokenizer: Any) -> None:
    rows, _ = token_rows(encode_records(tokenizer, RECORDS), 64)
    batch = TrainCollator(tokenizer.eos_token_id)([rows[0], rows[1]])
    assert batch["input_ids"].shape == (2, int(rows.lengths.max()))
    assert batch["attention_mask"].sum(1).tolist() == rows.lengths.tolist()
    assert (batch["labels"] != -100).sum(1).tolist() == [
        len(row.completion) for row in encode_records(tokenizer, RECORDS)
    ]


def test_a_long_row_loses_the_end_of_its_text_but_not_its_end_token(tokenizer: Any) -> None:
    whole = encode_records(tokenizer, RECORDS)
    longest = max(len(row.context) + len(row.completion) for row in whole)
    limit = len(whole[1].context) + 2
    assert len(whole[0].context) + len(whole[0].completion) > limit > len(whole[0].context)
    rows, report = token_rows(whole, limit)
    assert rows.lengths.max() == limit
    assert all(rows.ids(index)[-1] == tokenizer.eos_token_id for index in range(2))
    cut = sum(len(row.context) + len(row.completion) > limit for row in whole)
    assert (report.cut, report.longest) == (cut, longest)
    assert f"train: {cut} of 2 rows are longer than {limit} tokens (longest {longest})" in report.line()
    assert token_rows(whole, longest)[1].line() == ""


def test_an_input_without_room_for_a_text_is_refused(tokenizer: Any) -> None:
    need = len(encode_records(tokenizer, RECORDS)[1].context) + 2
    with pytest.raises(UserError, match=rf"1 of 2 inputs of train leave no room .*need {need} or more"):
        token_rows(encode_records(tokenizer, RECORDS), need - 1)
    token_rows(encode_records(tokenizer, RECORDS), need)


def test_a_long_input_for_decoding_keeps_its_end_and_the_separator(tokenizer: Any, tmp_path: Path) -> None:
    end = tokenizer.eos_token_id
    whole = [*ids(tokenizer, "name : Cotto"), end]
    file = write_lines(tmp_path / "a.jsonl", [vars(record) for record in RECORDS])

    def prompts(room: int) -> Any:
        return load_prompts(tokenizer, str(file), "test", seq_len=room + 8, eval_len=8)

    assert prompts(64).ids[0] == whole
    assert prompts(4).ids[0] == whole[-4:]
    cut = prompts(len(whole))
    assert [len(prompt) for prompt in cut.ids] == [len(whole)] * 2 and cut.report.cut == 1
    assert "lost their first tokens" in cut.report.line()
    with pytest.raises(UserError, match="found --seq_len 9 and --eval_len 8; need room for at least 2 tokens"):
        prompts(1)


def test_empty_texts_and_unknown_objectives_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [vars(RECORDS[1]), vars(Record("name : Cotto", ""))])
    with pytest.raises(UserError, match=r"a.jsonl, row 2 has an empty text in column completion"):
        load_encoded(file, "train", tokenizer)
    with pytest.raises(UserError, match="found obj lm; need one of clm, jlm"):
        token_rows(encode_records(tokenizer, RECORDS), 64, "lm")
    with pytest.raises(UserError, match="no end token"):
        encode_records(byte_tokenizer(eos=None), RECORDS)


def test_files_of_ids_are_taken_as_they_are(tokenizer: Any, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"context": [5, 6], "completion": [7, 0]}])
    assert load_encoded(file, "train", tokenizer) == [Encoded([5, 6], [7, 0])]
    text = write_lines(tmp_path / "b.jsonl", [{"context": "name : Cotto", "completion": "Cotto is a café ."}])
    assert load_encoded(text, "train", tokenizer) == encode_records(tokenizer, RECORDS[:1])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"context": [5], "completion": [70000]}, "row 2 has the token id 70000 in completion; the vocabulary"),
        ({"context": [-1], "completion": [7]}, "row 2 has the token id -1 in context"),
        ({"context": ["5"], "completion": [7]}, r"row 2 has \['5'\] as context; need a list of token ids"),
        ({"context": [5], "completion": "7"}, "row 2 has 7 as completion"),
        ({"context": [5], "completion": []}, "row 2 has no ids in one of context and completion"),
        ({"context": [5]}, "row 2 has None as completion"),
    ],
)
def test_ids_that_cannot_be_are_named(tokenizer: Any, tmp_path: Path, row: dict[str, Any], words: str) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"context": [5, 6], "completion": [7, 0]}, row])
    with pytest.raises(UserError, match=words):
        load_encoded(file, "train", tokenizer)
