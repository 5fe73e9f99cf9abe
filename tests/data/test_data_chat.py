"""Chat templates: prompt and answer together are the template's text, and training sees generation's prompt."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_data import byte_tokenizer
from transformers import AutoTokenizer

from sharelora.data import DataArguments, build_data
from sharelora.data.chat import NAMED, chat_renderer, find_template
from sharelora.support.errors import UserError

TURNS = [{"role": "user", "content": "Hi"}]


def pair(template: str, output: str | None = "Hello") -> tuple[str, str]:
    return chat_renderer(template, byte_tokenizer())({"messages": TURNS, "output": output})


def test_source_and_target_are_the_templates_own_text() -> None:
    source, target = pair(NAMED["chatml"])
    assert source == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert target == "Hello<|im_end|>"
    assert pair(NAMED["chatml"], None) == (source, "")


def test_the_template_comes_from_a_name_the_tokenizer_or_a_file(tmp_path: Path) -> None:
    tokenizer: Any = byte_tokenizer()
    tokenizer.chat_template = "own"
    (tmp_path / "mine.jinja").write_text("file")
    assert find_template("chatml", tokenizer) == NAMED["chatml"]
    assert find_template(None, tokenizer) == find_template("tokenizer", tokenizer) == "own"
    assert find_template(str(tmp_path / "mine.jinja"), tokenizer) == "file"


def test_a_missing_template_is_refused() -> None:
    with pytest.raises(UserError, match="no chat template; need one for conversations; pass --chat_template chatml"):
        find_template(None, byte_tokenizer())
    with pytest.raises(UserError, match="found chat_template llama, which cannot be read as a file"):
        find_template("llama", byte_tokenizer())


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('only one turn') }}", "refuses a conversation: only one turn"),
        ("{% if", "the chat template has an error in line 1: unexpected"),
        ("{% if add_generation_prompt %}now{% else %}later{% endif %}", "does not keep its own prompt"),
    ],
)
def test_a_template_that_does_not_work_is_refused(template: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pair(template)


HEADER = "{{ '<|start|>assistant<|end|>\n\n' }}"
LOOP = "<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>"
UNASKED = {
    # As the first template of Llama 3, with the begin token inside the first turn.
    "llama 3": "{% for m in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}"
    + LOOP
    + "{% endfor %}"
    + HEADER,
    # As the first of Llama 3.1: a system message of its own comes first, and no messages at all are an error.
    "llama 3.1": "{{ bos_token }}{% if messages[0].role != 'system' %}<|start|>system<|end|>\n\nToday is Monday.<|eot|>"
    "{% endif %}{% for m in messages %}" + LOOP + "{% endfor %}" + HEADER,
    "no common beginning": "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\n"
    "{% else %}A: {{ m.content }}<|eot|>{% endif %}{% endfor %}A: ",
    "short marks": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|eot|>{% endfor %}<|assistant|>",
}


@pytest.mark.parametrize("name", UNASKED)
def test_a_header_that_a_template_always_appends_is_not_learnt(name: str) -> None:
    source, target = pair(UNASKED[name])
    assert target == "Hello<|eot|>" and source == pair(UNASKED[name], None)[0]
    assert source.endswith(("<|start|>assistant<|end|>\n\n", "\nA: ", "<|eot|><|assistant|>"))


ASKED = {
    "chatml": (NAMED["chatml"], "Hello<|im_end|>"),
    "vicuna": (NAMED["vicuna"], " Hello</s>"),
    "mistral": (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
        "{% endif %}{% endfor %}",
        " Hello</s>",
    ),
    "one question only": (
        "{% if messages | length > 2 %}{{ raise_exception('long') }}{% endif %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "Hello",
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_other_templates_are_learnt_as_they_are(name: str) -> None:
    template, target = ASKED[name]
    assert pair(template)[1] == target


def test_a_header_in_the_middle_of_a_conversation_stays() -> None:
    turns = [*TURNS, {"role": "assistant", "content": "Ho"}, *TURNS]
    source, target = chat_renderer(UNASKED["short marks"], byte_tokenizer())({"messages": turns, "output": "Hello"})
    assert (
        source == "<|user|>Hi<|eot|><|assistant|>Ho<|eot|><|user|>Hi<|eot|><|assistant|>" and target == "Hello<|eot|>"
    )


def test_vicuna_has_a_system_message_in_place_of_its_own() -> None:
    system = {"role": "system", "content": "Be kind."}
    made = chat_renderer(NAMED["vicuna"], byte_tokenizer())({"messages": [system, *TURNS], "output": "Hello"})
    assert made == ("Be kind. USER: Hi ASSISTANT:", " Hello</s>")


def test_tools_and_calls_reach_the_template() -> None:
    template = (
        "{{ tools | length if tools else 'no' }} tools {% for m in messages %}{{ m.role }}:{{ m.content or '' }}"
        "{% for call in m.tool_calls or [] %}<{{ call.function.name }}>{% endfor %};{% endfor %}"
    )
    render = chat_renderer(template, byte_tokenizer())
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look_up"}}]}
    assert render({"messages": TURNS, "output": "Hello", "tools": [tool]})[0] == "1 tools user:Hi;"
    source, target = render({"messages": TURNS, "output": "", "reply": call})
    assert (source, target) == ("no tools user:Hi;", "assistant:<look_up>;")


def test_one_of_several_templates_is_chosen_by_name() -> None:
    tokenizer: Any = byte_tokenizer()
    tokenizer.chat_template = {"default": "D", "tool_use": "T"}
    assert find_template(None, tokenizer) == find_template("tokenizer", tokenizer) == "D"
    assert find_template("tool_use", tokenizer) == "T"
    with pytest.raises(UserError, match=r"need one of tokenizer, chatml, .*tool_use.*; did you mean tool_use\?"):
        find_template("tooluse", tokenizer)
    tokenizer.chat_template = {"rag": "R", "tool_use": "T"}
    with pytest.raises(
        UserError, match=r"the chat templates rag, tool_use and none called default; .*--chat_template rag"
    ):
        find_template(None, tokenizer)


def test_several_templates_of_a_saved_tokenizer_are_found(tmp_path: Path) -> None:
    tokenizer: Any = byte_tokenizer()
    tokenizer.chat_template = {"default": "D", "tool_use": "T"}
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (tmp_path / "additional_chat_templates" / "tool_use.jinja").is_file()
    assert [find_template(name, loaded) for name in (None, "tool_use")] == ["D", "T"]


def test_a_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.jinja").write_bytes(b"\xff\xff\xff")
    with pytest.raises(UserError, match=r"cannot be read as a file .*is not UTF-8 text"):
        find_template(str(tmp_path / "bad.jinja"), byte_tokenizer())


REFUSING = {
    "{{ raise_exception('no system') }}": "no system",
    "{{ messages[0].role + 1 }}": "TypeError: can only concatenate str",
    "{{ messages[0].content.nothing.at.all }}": "has no attribute",
    "{{ 1 // 0 }}": "ZeroDivisionError",
    "{{ [1] | first(2) }}": "TypeError",
}


@pytest.mark.parametrize("template", REFUSING)
def test_a_row_that_a_template_refuses_is_named_with_its_file(template: str, tmp_path: Path) -> None:
    """Whatever the template raises; other rows of the same file are fine."""
    file = tmp_path / "rows.jsonl"
    bad = {"role": "system", "content": "x"}
    rows = [{"messages": [*turns, {"role": "assistant", "content": "Ho"}]} for turns in (TURNS, [bad, *TURNS], TURNS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    guarded = "{% if messages[0].role == 'system' %}" + template + "{% endif %}" + UNASKED["short marks"]
    (tmp_path / "t.jinja").write_text(guarded)
    arguments = DataArguments(dataset=str(file), chat_template=str(tmp_path / "t.jinja"), eval_dataset_size=0)
    with pytest.raises(UserError, match=re.escape(REFUSING[template])) as caught:
        build_data(byte_tokenizer(), arguments, need_eval=False)
    said = str(caught.value)
    assert said.startswith(f"{file}, row 2: the chat template refuses a conversation: ") and "\n" not in said


def test_tools_without_a_place_in_the_template_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "rows.jsonl"
    turns = [*TURNS, {"role": "assistant", "content": "Ho"}]
    file.write_text(
        json.dumps({"messages": turns, "tools": [{"type": "function"}]}) + "\n" + json.dumps({"messages": turns})
    )
    build_data(
        byte_tokenizer(),
        DataArguments(dataset=str(file), chat_template="chatml", eval_dataset_size=0),
        need_eval=False,
    )
    assert (
        "1 of 2 rows have tools, for which the chat template has no place: they are NOT in the prompts" in caplog.text
    )
