"""Chat templates: prompt and answer together are the template's text, and training sees generation's prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_data import byte_tokenizer

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
