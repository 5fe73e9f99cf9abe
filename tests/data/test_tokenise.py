"""Tokens: the end token is never lost, limits hold, and what is cut is reported and is never the question."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import byte_tokenizer, metaspace_tokenizer

from sharelora.data import DataArguments, SplitReport, TokenRows, TruncationReport
from sharelora.data.context import Context
from sharelora.data.gsm8k import demonstrations
from sharelora.data.tokenise import Encoder, cut_middle, padding_id
from sharelora.support.errors import UserError

WITH_BOS, WITHOUT_BOS = byte_tokenizer(), byte_tokenizer(bos=None)
TEXT = st.text(max_size=60)


def encode(tokenizer: Any, *pairs: tuple[str, str], **options: Any) -> tuple[TokenRows, SplitReport]:
    rows = [{"input": source, "output": target} for source, target in pairs]
    return Encoder(tokenizer, DataArguments(**options)).encode(rows, "train")


@settings(max_examples=60, deadline=None)
@given(
    source=TEXT,
    target=TEXT,
    source_max_len=st.integers(1, 40),
    target_max_len=st.integers(1, 40),
    train_on_source=st.booleans(),
    bos=st.booleans(),
)
def test_what_holds_for_every_row(
    source: str, target: str, source_max_len: int, target_max_len: int, train_on_source: bool, bos: bool
) -> None:
    tokenizer = WITH_BOS if bos else WITHOUT_BOS
    rows, report = encode(
        tokenizer,
        (source, target),
        source_max_len=source_max_len,
        target_max_len=target_max_len,
        train_on_source=train_on_source,
    )
    ids, labels = rows[0]["input_ids"].tolist(), rows[0]["labels"].tolist()
    begin = [tokenizer.bos_token_id] if bos else []
    wanted = [*begin, *tokenizer(source, add_special_tokens=False)["input_ids"]]
    answer = [*tokenizer(target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    prompt = rows.source_lengths[0]

    assert ids[-1] == labels[-1] == tokenizer.eos_token_id or len(ids) == 1
    assert prompt == min(len(wanted), source_max_len)
    assert len(ids) - prompt == min(len(answer), target_max_len)
    assert rows[0]["length"] == len(ids)
    assert ids[: len(begin)] == begin
    assert ids[prompt:-1] == answer[: target_max_len - 1][: len(answer) - 1]
    if len(wanted) <= source_max_len:
        assert ids[:prompt] == wanted
    # Labels are the tokens themselves, from the answer on (or from the second token on), and nothing else.
    first = 1 if train_on_source else max(1, int(prompt))
    assert labels == [-100] * first + ids[first:]
    assert report.sources_cut == (len(wanted) > source_max_len)
    assert report.targets_cut == (len(answer) > target_max_len)


@given(st.lists(st.integers(), max_size=30), st.integers(0, 30))
def test_a_cut_keeps_the_beginning_and_the_end(ids: list[int], limit: int) -> None:
    cut = cut_middle(ids, limit)
    assert len(cut) == min(len(ids), limit)
    if len(ids) > limit:
        head, tail = limit // 2, limit - limit // 2
        assert cut == ids[:head] + (ids[-tail:] if tail else [])


def test_a_cut_prompt_keeps_its_response_marker() -> None:
    marker = "\n\n### Response: "
    rows, _ = encode(WITH_BOS, ("Below is an instruction " + "x y z " * 200 + marker, "yes"), source_max_len=64)
    prompt = WITH_BOS.decode(rows[0]["input_ids"][: rows.source_lengths[0]])
    assert prompt.startswith("<s>Below is an instruction") and prompt.endswith(marker)


def test_no_begin_token_is_written_as_text() -> None:
    rows, _ = encode(WITHOUT_BOS, ("Hi", "there"))
    assert WITHOUT_BOS.decode(rows[0]["input_ids"]) == "Hithere</s>"


def test_a_begin_or_end_token_in_the_text_is_not_doubled() -> None:
    rows, _ = encode(WITH_BOS, ("<s>Hi", "there</s>"))
    assert WITH_BOS.decode(rows[0]["input_ids"]) == "<s>Hithere</s>"


def test_tokens_of_prompt_and_answer_never_merge() -> None:
    """The prompt's tokens in training are those that generation will see."""
    rows, _ = encode(WITH_BOS, ("the ap", "ples"))
    prompt = WITH_BOS("the ap", add_special_tokens=False)["input_ids"]
    assert rows[0]["input_ids"].tolist()[1 : 1 + len(prompt)] == prompt
    joint = WITH_BOS("the apples", add_special_tokens=False)["input_ids"]
    assert rows[0]["input_ids"].tolist()[1:-1] != joint


def test_a_tokenizer_that_writes_spaces_gets_no_second_one() -> None:
    rows, _ = encode(metaspace_tokenizer(), ("Answer:", " the"))
    assert metaspace_tokenizer().decode(rows[0]["input_ids"]) == "<s> Answer: the</s>"


def test_the_tokenizer_is_left_as_it_is() -> None:
    tokenizer = byte_tokenizer(pad=None)
    before = (len(tokenizer), dict(tokenizer.special_tokens_map), tokenizer("if a != b: '!'")["input_ids"])
    rows, _ = encode(tokenizer, ("if a != b: print('hi!')", "!"))
    assert before == (len(tokenizer), dict(tokenizer.special_tokens_map), tokenizer("if a != b: '!'")["input_ids"])
    decoded = tokenizer.decode(rows[0]["input_ids"], skip_special_tokens=True)
    assert decoded == "if a != b: print('hi!')!"


def test_padding_uses_a_token_that_exists() -> None:
    assert padding_id(byte_tokenizer(pad="<pad>")) == byte_tokenizer(pad="<pad>").pad_token_id
    assert padding_id(WITH_BOS) == WITH_BOS.eos_token_id
    with pytest.raises(UserError, match="neither a padding token nor an end token"):
        padding_id(byte_tokenizer(eos=None))


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    with pytest.raises(UserError, match="no end token"):
        Encoder(byte_tokenizer(eos=None), DataArguments())


def gsm8k(limit: int, questions: list[str]) -> tuple[TokenRows, SplitReport]:
    encoder = Encoder(WITH_BOS, DataArguments(source_max_len=limit), demonstrations())
    rows = [{"input": f"Question: {text}\n\nAnswer:", "output": " 1"} for text in questions]
    return encoder.encode(rows, "train")


@pytest.mark.parametrize("limit", [60, 150, 400, 900])
def test_worked_examples_are_dropped_whole_and_never_the_question(limit: int) -> None:
    rows, report = gsm8k(limit, ["How many?", "How many apples does Mira have?"])
    every = demonstrations()
    for index, text in enumerate(["How many?", "How many apples does Mira have?"]):
        prompt = WITH_BOS.decode(rows[index]["input_ids"][1 : rows.source_lengths[index]])
        question = f"Question: {text}\n\nAnswer:"
        assert prompt in {"".join(every[first:]) + question for first in range(9)}
        assert rows.source_lengths[index] <= limit
    assert (report.sources_cut, report.demonstrations_dropped) == (0, 2)
    assert report.longest_source > limit


def test_as_many_worked_examples_stay_as_fit() -> None:
    def shown(limit: int) -> int:
        rows, _ = gsm8k(limit, ["How many?"])
        return WITH_BOS.decode(rows[0]["input_ids"]).count("Question:") - 1

    whole, _ = gsm8k(10**6, ["How many?"])
    length = int(whole.source_lengths[0])
    assert shown(length) == 8 and shown(length - 1) == 7 and shown(20) == 0


class Growing:
    """A toy tokenizer that takes three more tokens for every question after the first one in a text."""

    bos_token_id, eos_token_id = None, 1

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[2] * (len(text) + 3 * max(0, text.count("Q") - 1)) for text in texts]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return ["x"] * len(ids)


def test_worked_examples_that_grow_when_joined_still_fit() -> None:
    encoder = Encoder(Growing(), DataArguments(source_max_len=45), ("Q: 1 A: 2\n",) * 4)
    rows, report = encoder.encode([{"input": "Q: 3 A:   ", "output": "a"}], "train")
    # Alone, three examples and the question are 40 tokens; joined they are 49, and two examples 36.
    assert rows.source_lengths[0] == 36
    assert report.demonstrations_dropped == 1


def test_everything_cut_is_in_one_report() -> None:
    _, report = encode(WITH_BOS, ("long " * 50, "short"), ("short", "long " * 60), source_max_len=30, target_max_len=20)
    text = TruncationReport.of([report], 10**30).render()
    assert "train: 1 of 2 (50.0 %) prompts lost their middle: longer than source_max_len 30" in text
    assert f"(longest {report.longest_source})" in text and f"(longest {report.longest_target})" in text
    assert "answers lost their last tokens: longer than target_max_len 20" in text
    assert "e.g. row 1" in text and "e.g. row 2" in text and "--source_max_len" in text


def test_nothing_cut_is_no_report() -> None:
    _, report = encode(WITH_BOS, ("a", "b"))
    whole = TruncationReport.of([report], 10**30)
    assert whole.render() == ""
    assert whole.to_json()["splits"][0]["rows"] == 1


def test_rows_beyond_the_models_context_are_reported() -> None:
    _, report = encode(WITH_BOS, ("word " * 20, "b"))
    assert "longer than the model's context of 16" in TruncationReport.of([report], 16).render()


def within(source: str, target: str, context: Context, **options: Any) -> tuple[TokenRows, SplitReport]:
    encoder = Encoder(WITH_BOS, DataArguments(**options), context=context)
    return encoder.encode([{"input": source, "output": target}], "train")


@given(source=TEXT, target=TEXT, limits=st.tuples(st.integers(2, 60), st.integers(2, 60)), positions=st.integers(4, 80))
def test_a_row_never_has_more_tokens_than_a_table_of_positions(
    source: str, target: str, limits: tuple[int, int], positions: int
) -> None:
    lengths = dict(zip(("source_max_len", "target_max_len"), limits, strict=True))
    free, whole = within(source, target, Context(), **lengths)
    rows, report = within(source, target, Context(positions, table=True), **lengths)
    assert rows.lengths[0] == min(int(free.lengths[0]), positions)
    assert report.beyond_positions == (free.lengths[0] > positions)
    # An answer gives way only to half of the positions.
    prompt, answer = int(rows.source_lengths[0]), int(rows.lengths[0] - rows.source_lengths[0])
    assert prompt >= min(int(free.source_lengths[0]), positions // 2)
    assert answer >= min(whole.longest_row - int(free.source_lengths[0]), positions - positions // 2)
    assert rows.ids(0)[-1] == WITH_BOS.eos_token_id
    computed, report = within(source, target, Context(positions, table=False), **lengths)
    assert computed.ids(0).tolist() == free.ids(0).tolist()
    assert report.beyond_positions == (free.lengths[0] > positions)


def test_what_positions_do_to_rows_is_said() -> None:
    _, table = within("word " * 30, "yes", Context(64, table=True))
    text = TruncationReport.of([table], 16).render()
    assert f"1 of 1 (100.0 %) rows were cut to the 64 positions of the model (longest {table.longest_wanted}" in text
    assert "--source_max_len" not in text and "context of 16" not in text
    _, computed = within("word " * 30, "yes", Context(64, table=False))
    assert computed.longest_row == computed.longest_wanted == table.longest_wanted > 64
    text = TruncationReport.of([computed], 10**30).render()
    assert "1 of 1 (100.0 %) rows are longer than the 64 positions that the model was made for" in text
    assert "lower --source_max_len" in text
    _, fits = within("a", "b", Context(64, table=True))
    assert TruncationReport.of([fits], 10**30).render() == ""


def test_a_prompt_leaves_room_for_the_tokens_that_follow() -> None:
    rows = [{"input": "word " * 30, "output": ""}]
    encoder = Encoder(WITH_BOS, DataArguments(), context=Context(64, table=True), new_tokens=50)
    tokens, report = encoder.encode(rows, "predict", answers=False)
    assert tokens.lengths.tolist() == [14] and report.beyond_positions == 1
    with pytest.raises(UserError, match=r"found --max_new_tokens 63; the model has 64 positions.*at most 62"):
        Encoder(WITH_BOS, DataArguments(), context=Context(64, table=True), new_tokens=63)
    # A model that computes its positions reads on, and the report says so.
    tokens, report = Encoder(WITH_BOS, DataArguments(), context=Context(64), new_tokens=50).encode(rows, "p", False)
    assert report.beyond_positions == 1 and tokens.lengths[0] == report.longest_wanted - 50


def test_worked_examples_give_way_to_positions() -> None:
    encoder = Encoder(WITH_BOS, DataArguments(), demonstrations(), context=Context(300, table=True))
    rows, report = encoder.encode([{"input": "Question: How many?\n\nAnswer:", "output": " 1"}], "train")
    assert rows.lengths[0] <= 300
    assert WITH_BOS.decode(rows.ids(0)).startswith("<s>Question:")
    assert report.demonstrations_dropped == 1
    assert "or the 300 positions of the model" in TruncationReport.of([report], 10**30).render()


def test_an_added_token_is_refused_with_its_split() -> None:
    tokenizer = byte_tokenizer()
    context = Context(vocabulary=len(tokenizer))
    tokenizer.add_tokens(["<new>"])
    encoder = Encoder(tokenizer, DataArguments(), context=context)
    encoder.encode([{"input": "old", "output": "old"}], "train")
    with pytest.raises(UserError, match=r"1 of the 2 eval rows have tokens without an embedding, first '<new>'"):
        encoder.encode([{"input": "a", "output": "b"}, {"input": "a <new>", "output": "b"}], "eval")
