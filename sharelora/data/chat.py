"""Conversations, rows whose text is a list of turns, and the chat templates that write them as prompt and answer.

Prompt and answer together are exactly the template's text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from sharelora.data.rows import BadCell, Row
from sharelora.support.errors import UserError

NAMED = {
    "chatml": (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # LLaVA-1.5's: haotian-liu/LLaVA, llava/conversation.py, conv_vicuna_v1.
    "vicuna": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. "
        "{% for turn in messages %}{% if turn.role == 'user' %}USER: {{ turn.content }} ASSISTANT:"
        "{% else %} {{ turn.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
}
OWN = "tokenizer"
# What the column of turns may be called.
COLUMNS = ("messages", "conversations")
# ShareGPT's names of roles -> those of chat templates.
ROLES = {"human": "user", "gpt": "assistant"}

Pair = tuple[str, str]


def find_template(name: str | None, tokenizer: Any) -> str:
    """Return the Jinja text of a chat template.

    Args:
        name: a key of `NAMED`, a file, or `tokenizer` or None for the tokenizer's own.

    Raises:
        UserError: there is none.
    """
    if name in NAMED:
        return NAMED[name]
    if name is None or name == OWN:
        if isinstance(tokenizer.chat_template, str):
            return tokenizer.chat_template
        raise UserError(
            f"this tokenizer has no chat template; need one for conversations; "
            f"pass --chat_template {' or '.join(NAMED)}, or a Jinja file"
        )
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"found chat_template {name}, which cannot be read as a file ({error.strerror}); "
            f"need {OWN}, {', '.join(NAMED)} or a Jinja file; change --chat_template"
        ) from error


def chat_renderer(template: str, tokenizer: Any) -> Callable[[Row], Pair]:
    """Return a function that renders a row's `messages` and `output` as source and target text.

    The source ends where the template starts the assistant's turn, so training and generation see the same prompt.
    """

    def render(turns: list[dict[str, str]], prompt: bool) -> str:
        try:
            return tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=prompt
            )
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template refuses a conversation: {error}; change one of them") from error

    def pair(row: Row) -> Pair:
        source = render(row["messages"], True)
        if row["output"] is None:
            return source, ""
        whole = render([*row["messages"], {"role": "assistant", "content": row["output"]}], False)
        if not whole.startswith(source):
            raise UserError(
                "the chat template does not keep its own prompt at the start of the whole conversation; "
                "need one that does; pass --chat_template with such a file"
            )
        # A template's newline after its end marker belongs to the next turn.
        return source, whole[len(source) :].rstrip("\n")

    return pair


def _messages(row: Row) -> list[dict[str, str]]:
    """A conversation as role and content; `conversations` with from and value is read too."""
    turns = row.get("messages") or row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadCell(f"no list of turns in column {' or '.join(COLUMNS)}")
    messages = []
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise BadCell("a turn without role and content as text")
        messages.append({"role": ROLES.get(role, role), "content": content})
    return messages


def turns_to_rows(row: Row, need_answer: bool) -> list[Row]:
    """One row for each assistant turn: everything before it is the prompt, so each turn is learnt exactly once.

    Args:
        row: a row with one of the columns `COLUMNS`.
        need_answer: False makes one row of only the last turn: an assistant's turn, or the answer still to be given.

    Raises:
        BadCell: no turns, or none to learn.
    """
    turns = _messages(row)
    columns = {key: value for key, value in row.items() if key not in COLUMNS}
    ends = [index for index, turn in enumerate(turns) if turn["role"] == "assistant" and index > 0]
    if not need_answer:
        last = len(turns) - 1
        ends = [last if last in ends else len(turns)]
    if not ends:
        raise BadCell("no assistant turn after another one")
    rows = []
    for end in ends:
        answer = turns[end]["content"] if end < len(turns) else None
        rows.append({**columns, "messages": turns[:end], "input": turns[end - 1]["content"], "output": answer})
    return rows
