"""Columns become prompts and answers exactly as the upstream projects make them, without their defects."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sharelora.data.formats import (
    FORMATS,
    check_format,
    format_by_columns,
    format_of,
    format_rows,
    only_prompts,
    unused_columns,
)
from sharelora.data.gsm8k import WORKED_EXAMPLES, demonstrations, without_calculator
from sharelora.support.errors import UserError


def one(name: str, row: dict[str, Any], **options: Any) -> dict[str, Any]:
    [[made]] = format_rows([row], name, **options)
    return made


def test_alpaca_prompt_with_and_without_input() -> None:
    made = one("alpaca", {"instruction": "Add.", "input": "1 2", "output": "3"})
    assert made["input"] == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response: "
    )
    made = one("alpaca-clean", {"instruction": "Sing.", "input": "", "output": "la"})
    assert made["input"] == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n### Instruction:\nSing.\n\n### Response: "
    )
    assert made["output"] == "la"


PAIRS = {
    "chip2": ({"text": "<human>: Hi\n<bot>: Hello"}, "Hi", "Hello"),
    "self-instruct": ({"prompt": "P", "completion": "C"}, "P", "C"),
    "hh-rlhf": ({"chosen": "whole", "rejected": "no"}, "", "whole"),
    "longform": ({"input": "I", "output": "O", "source": "s"}, "I", "O"),
    "oasst1": ({"text": "### Human: a### Assistant: b"}, "", "### Human: a### Assistant: b"),
    "input-output": ({"input": "I", "output": "O"}, "I", "O"),
    "MATH": ({"problem": "1+1?", "solution": "2"}, "Problem:\n1+1?\n\nSolution:\n", "2"),
    "GSM8K": (
        {"question": "Six by 7?", "answer": "It is 6*7 = <<6*7=42>>42.\n#### 42"},
        "Question: Six by 7?\n\nAnswer:",
        " It is 6*7 = <<6*7=42>>42. The final answer is 42",
    ),
    "HF_CODE": ({"prompt": "P\n", "completion": "C"}, "P\n", "C"),
    "HE": ({"prompt": "def f():\n", "canonical_solution": "    pass\n"}, "def f():\n", "    pass\n"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_format_maps_its_columns(name: str) -> None:
    row, prompt, answer = PAIRS[name]
    made = one(name, row)
    assert (made["input"], made["output"]) == (prompt, answer)
    assert {key: made[key] for key in row if key not in ("input", "output")} == {
        key: value for key, value in row.items() if key not in ("input", "output")
    }


def test_no_format_is_left_out_of_these_tests() -> None:
    assert set(FORMATS) == {*PAIRS, "alpaca", "alpaca-clean", "chat"}


def test_math_prompts_have_real_newlines() -> None:
    made = one("MATH", {"problem": "x", "solution": "first\nsecond \\boxed{2}"})
    assert "\\n" not in made["input"] + made["output"]
    assert made["output"].count("\n") == 1


def test_code_prompt_of_instruction_columns_is_that_of_the_hub_data() -> None:
    made = one("HF_CODE", {"instruction": "Increment.", "input": "a = 8", "output": "a += 5 "})
    assert (made["input"], made["output"]) == ("Increment.\na = 8", "a += 5")


def test_calculator_marks_are_removed_and_nothing_else() -> None:
    assert without_calculator("has 48/2 = <<48/2=24>>24 < 30 >> 2") == "has 48/2 = 24 < 30 >> 2"


def test_metadata_columns_stay_with_each_row() -> None:
    made = one("HE", {"prompt": "p", "canonical_solution": "c", "task_id": "T/1", "entry_point": "f", "test": "t"})
    assert (made["task_id"], made["entry_point"], made["test"]) == ("T/1", "f", "t")


COLUMNS = {
    "alpaca": ("instruction", "input", "output"),
    "input-output": ("input", "output"),
    "self-instruct": ("prompt", "completion"),
    "HE": ("task_id", "prompt", "canonical_solution"),
    "MATH": ("problem", "level", "solution"),
    "GSM8K": ("question", "answer"),
    "hh-rlhf": ("chosen", "rejected"),
    "chat": ("messages",),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_format_of_a_file_follows_from_its_columns(name: str) -> None:
    assert format_by_columns(COLUMNS[name]) == name


def test_unknown_columns_name_what_is_there_and_what_is_needed() -> None:
    with pytest.raises(UserError, match=r"found the columns foo, bar; need one of messages \(chat\).*input\+output"):
        format_by_columns(["foo", "bar"])


def test_wrong_columns_for_a_format_are_refused() -> None:
    with pytest.raises(UserError, match=r"found the columns a; format alpaca needs instruction\+output"):
        format_rows([{"a": "x"}], "alpaca")
    with pytest.raises(UserError, match="format chat needs messages or conversations"):
        format_rows([{"a": "x"}], "chat")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UserError, match="found dataset_format llama; need one of alpaca, alpaca-clean, chip2"):
        check_format("llama")


BAD_ROWS = {
    "alpaca": ({"instruction": "a", "output": None}, "row 2 has nothing in column output"),
    "input-output": ({"input": ["a"], "output": "b"}, "row 2 has a list in column input"),
    "chip2": ({"text": "<human>: Hi"}, "row 2 has no '<bot>: ' line"),
    "GSM8K": ({"question": "q", "answer": "just 4"}, "row 2 has no '#### number'"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_by_its_number(name: str) -> None:
    bad, message = BAD_ROWS[name]
    good = dict(PAIRS[name][0]) if name in PAIRS else {"instruction": "a", "output": "b"}
    with pytest.raises(UserError, match=re.escape(message)):
        format_rows([good, bad], name)


def test_prompts_alone_can_be_predicted_but_not_learnt() -> None:
    rows = [{"instruction": "a"}]
    assert only_prompts(rows, "alpaca") and not only_prompts([{"instruction": "a", "output": "b"}], "alpaca")
    assert not only_prompts([{"other": "a"}], "alpaca")
    assert one("alpaca", rows[0], need_answer=False)["output"] is None
    with pytest.raises(UserError, match="needs instruction"):
        format_rows(rows, "alpaca")


TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]


def test_a_conversation_teaches_each_assistant_turn_once() -> None:
    [rows] = format_rows([{"messages": TURNS, "id": 7}], "chat")
    assert [row["output"] for row in rows] == ["Hello", "See you"]
    assert [row["messages"] for row in rows] == [TURNS[:2], TURNS[:4]]
    assert [row["id"] for row in rows] == [7, 7]


def test_a_conversation_to_predict_gives_its_last_turn() -> None:
    assert one("chat", {"messages": TURNS}, need_answer=False)["output"] == "See you"
    open_end = one("chat", {"messages": TURNS[:4]}, need_answer=False)
    assert open_end["messages"] == TURNS[:4] and open_end["output"] is None


def test_conversations_with_from_and_value_are_read() -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    made = one("chat", {"conversations": turns})
    assert made["messages"] == [{"role": "user", "content": "Hi"}] and made["output"] == "Hello"


@pytest.mark.parametrize("turns", ["text", [{"role": "user"}], TURNS[:2], [TURNS[2]]])
def test_a_conversation_without_anything_to_learn_is_refused(turns: Any) -> None:
    with pytest.raises(UserError, match="row 1 has"):
        format_rows([{"messages": turns}], "chat")


def test_a_chat_template_gets_the_bare_question() -> None:
    made = one("alpaca", {"instruction": "Add.", "input": "1 2", "output": "3"}, chat=True)
    assert made["messages"] == [{"role": "user", "content": "Add.\n\n1 2"}]
    assert one("GSM8K", PAIRS["GSM8K"][0], chat=True)["input"] == "Six by 7?"
    with pytest.raises(UserError, match="format oasst1 has no question"):
        format_rows([{"text": "x"}], "oasst1", chat=True)


HISTORY = [["Name a fruit.", "Pear."], ["And a tree.", "Oak."]]


def test_system_stands_before_the_prompt_and_history_is_what_was_said_before() -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief.", "history": HISTORY}
    assert one("alpaca", row)["input"] == (
        "Be brief.\n\nBelow is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName a fruit.\n\n### Response: Pear.\n\n"
        "### Instruction:\nAnd a tree.\n\n### Response: Oak.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response: "
    )
    assert one("alpaca", row)["output"] == "3"
    assert one("alpaca", row, chat=True)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": "Pear."},
        {"role": "user", "content": "And a tree."},
        {"role": "assistant", "content": "Oak."},
        {"role": "user", "content": "Add.\n\n1 2"},
    ]
    bare = {**row, "system": None, "history": []}
    assert one("alpaca", bare) == {
        **one("alpaca", {**bare, "system": "", "history": None}),
        "system": None,
        "history": [],
    }
    assert one("input-output", {"input": "I", "output": "O", "system": "S"})["input"] == "S\n\nI"


@pytest.mark.parametrize("history", ["text", [["a"]], [["a", None]], [{"a": "b"}], 3])
def test_a_history_of_another_form_is_refused(history: Any) -> None:
    with pytest.raises(UserError, match=r"row 1 has .* in column history"):
        format_rows([{"instruction": "a", "output": "b", "history": history}], "alpaca")


def test_a_question_beside_a_chosen_answer_is_its_prompt() -> None:
    """Rows of preferences have their question in a column of its own, or in the text of the answer."""
    row = {"chosen": "C", "rejected": "R"}
    assert one("hh-rlhf", {"prompt": "P", **row})["input"] == "P"
    assert one("hh-rlhf", {"instruction": "Sing.", **row})["input"].endswith(
        "### Instruction:\nSing.\n\n### Response: "
    )
    assert one("hh-rlhf", row)["input"] == ""
    assert {one("hh-rlhf", {**more, **row})["output"] for more in ({}, {"prompt": "P"}, {"instruction": "I"})} == {"C"}


def test_columns_that_nothing_is_made_of_are_counted() -> None:
    rows = [
        {"instruction": "a", "input": "", "output": "b", "system": "s", "history": [], "weight": 0.5, "text": "t"},
        {"instruction": "a", "output": "b", "weight": None, "id": 3, "tools": "[]"},
    ]
    assert unused_columns(rows, "alpaca") == {"weight": 1, "text": 1, "id": 1, "tools": 1}
    assert unused_columns(rows, "alpaca", chat=True) == {"weight": 1, "text": 1, "id": 1}
    assert unused_columns([{"input": "a", "output": "b", "history": HISTORY}], "input-output") == {"history": 1}
    assert unused_columns([{"messages": TURNS, "tools": [], "system": "s", "source": "x"}], "chat") == {"source": 1}
    assert unused_columns([{"prompt": "p", "chosen": "c", "rejected": "r"}], "hh-rlhf") == {"rejected": 1}


def test_a_first_row_that_lacks_a_column_does_not_hide_it() -> None:
    rows = [{"instruction": "a"}, {"instruction": "a", "output": "b"}]
    assert format_of(rows) == "alpaca"
    with pytest.raises(UserError, match="row 1 has nothing in column output"):
        format_rows(rows, "alpaca")
    assert format_of([{"input": "a", "output": "b"}, {"instruction": "i", "input": "a", "output": "b"}]) == "alpaca"


def test_a_system_column_is_a_system_message_of_a_conversation() -> None:
    bare = TURNS[1:]
    [rows] = format_rows([{"messages": bare, "system": "Be kind."}], "chat")
    assert [row["messages"] for row in rows] == [TURNS[:2], TURNS[:4]]
    [same] = format_rows([{"messages": TURNS, "system": "Be kind."}], "chat")
    assert [row["messages"] for row in same] == [TURNS[:2], TURNS[:4]]
    for empty in ("", " ", None, float("nan")):
        assert format_rows([{"messages": bare, "system": empty}], "chat")[0][0]["messages"] == bare[:1]
    with pytest.raises(UserError, match="row 1 has one system message in its turns and another in column system"):
        format_rows([{"messages": TURNS, "system": "Be rude."}], "chat")
    # An answer that nothing was said before is not learnt, with a system message either.
    with pytest.raises(UserError, match="no assistant turn after another one"):
        format_rows([{"messages": bare[1:2], "system": "Be kind."}], "chat")


TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {}}}


@pytest.mark.parametrize(
    ("tools", "found"),
    [([TOOL], [TOOL]), (json.dumps([TOOL]), [TOOL]), ("", None), ([], None), ("[]", None), (None, None)],
)
def test_tools_are_a_list_or_its_json(tools: Any, found: Any) -> None:
    assert one("chat", {"messages": TURNS[:3], "tools": tools})["tools"] == found


@pytest.mark.parametrize("tools", ["{", "3", [3], 3, {"a": 1}])
def test_tools_of_another_form_are_refused(tools: Any) -> None:
    with pytest.raises(UserError, match=r"row 1 has no (list of functions|JSON) in column tools"):
        format_rows([{"messages": TURNS, "tools": tools}], "chat")


def test_a_call_of_a_function_is_an_answer_to_learn() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look_up", "arguments": {}}}]}
    said = {"role": "tool", "content": "42", "tool_call_id": "1"}
    [rows] = format_rows([{"messages": [TURNS[1], call, said, TURNS[2]]}], "chat")
    assert [row["messages"] for row in rows] == [[TURNS[1]], [TURNS[1], call, said]]
    assert [(row["output"], row.get("reply")) for row in rows] == [("", call), ("Hello", None)]


def test_worked_examples_calculate_correctly() -> None:
    assert len(WORKED_EXAMPLES) == len(demonstrations()) == 8
    for question, answer in WORKED_EXAMPLES:
        steps = re.findall(r"(\d[\d */+-]*?) = (\d+)", answer)
        assert steps, question
        for term, result in steps:
            assert eval(term) == int(result), f"{term} = {result}"
        assert answer.endswith(f"The final answer is {steps[-1][1]}")


def test_worked_examples_look_like_prompts_and_answers() -> None:
    row = {"question": WORKED_EXAMPLES[1][0], "answer": WORKED_EXAMPLES[1][1].replace(" The final answer is", "\n####")}
    made = one("GSM8K", row)
    assert made["input"] + made["output"] + "\n\n" == demonstrations()[1]
