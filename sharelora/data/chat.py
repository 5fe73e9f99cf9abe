"""Conversations: rows whose text is a list of turns, as prompt and answer.

Prompt and answer together are exactly the chat template's text. A column `system` is put before the turns as a system
message; a column `tools`, a list of functions or its JSON, is handed to the template.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sharelora.data.rows import BadCell, FileRow, Row, changed, missing, optional
from sharelora.data.templates import NAMED, OWN, ChatTemplate, find_template
from sharelora.support.errors import UserError
from sharelora.support.reading import parse_json

__all__ = [
    "COLUMNS",
    "NAMED",
    "OWN",
    "ROLES",
    "TOOLS",
    "USED",
    "chat_renderer",
    "find_template",
    "opening",
    "tools_of",
    "turns_to_rows",
]

# What the column of turns may be called.
COLUMNS = ("messages", "conversations")
SYSTEM, TOOLS = "system", "tools"
# Every column that is read.
USED = (*COLUMNS, SYSTEM, TOOLS)
# ShareGPT's names of roles -> those of chat templates.
ROLES = {"human": "user", "gpt": "assistant"}
# What a turn may have besides: calls of functions, who answered them, and what was thought before an answer.
_MORE = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking")
# The answer to learn with all that it has, where that is more than its text.
_REPLY = "reply"

Message = dict[str, Any]
Pair = tuple[str, str]


def chat_renderer(template: str, tokenizer: Any) -> Callable[[Row], Pair]:
    """Return a function that renders a row's `messages` and `output` as source and target text.

    The source ends where the template starts the assistant's turn, so training and generation see the same prompt.
    """
    chat = ChatTemplate(template, tokenizer)

    def pair(row: Row) -> Pair:
        where = row.place if isinstance(row, FileRow) else ""
        tools = row.get(TOOLS)
        source = chat.write(row["messages"], True, where, tools)
        if row["output"] is None:
            return source, ""
        reply = row[_REPLY] if isinstance(row.get(_REPLY), dict) else {"role": "assistant", "content": row["output"]}
        whole = chat.write([*row["messages"], reply], False, where, tools)
        if not whole.startswith(source):
            raise UserError(
                f"{where}{': ' if where else ''}the chat template does not keep its own prompt at the start of the "
                "whole conversation; need one that does; pass --chat_template with such a file"
            )
        # A template's newline after its end marker belongs to the next turn.
        return source, whole[len(source) :].rstrip("\n")

    return pair


def opening(system: str, history: list[Pair], question: str) -> list[Message]:
    """A conversation up to its last question: the system message if there is one, earlier pairs, the question."""
    turns = [("system", system)] if system else []
    turns += [turn for asked, answered in history for turn in (("user", asked), ("assistant", answered))]
    return [{"role": role, "content": content} for role, content in (*turns, ("user", question))]


def _messages(row: Row) -> list[Message]:
    """A conversation as role and content; `conversations` with from and value is read too."""
    turns = row.get("messages") or row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadCell(f"no list of turns in column {' or '.join(COLUMNS)}")
    messages = []
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        more = {name: turn[name] for name in _MORE if not missing(turn.get(name))}
        # A call of a function needs no words.
        if not isinstance(role, str) or not (isinstance(content, str) or ("tool_calls" in more and content is None)):
            raise BadCell("a turn without role and content as text")
        messages.append({"role": ROLES.get(role, role), "content": content, **more})
    return messages


def _system(row: Row, turns: list[Message]) -> list[Message]:
    """The message of the column `system`, to go before the turns; none where they have it already."""
    text = optional(row, SYSTEM)
    if not text.strip():
        return []
    if turns[0]["role"] != "system":
        return [{"role": "system", "content": text}]
    if turns[0]["content"] != text:
        raise BadCell("one system message in its turns and another in column system")
    return []


def tools_of(row: Row) -> list[Any] | None:
    """The functions that a model may call, from the column `tools`; None where there are none.

    Raises:
        BadCell: neither a list of objects nor JSON of one.
    """
    tools = row.get(TOOLS)
    if isinstance(tools, str) and tools.strip():
        try:
            tools = parse_json(tools)
        except ValueError as error:
            raise BadCell("no JSON in column tools") from error
    if missing(tools) or tools == [] or (isinstance(tools, str) and not tools.strip()):
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadCell("no list of functions in column tools")
    return tools


def turns_to_rows(row: Row, need_answer: bool) -> list[Row]:
    """One row for each assistant turn: everything before it is the prompt, so each turn is learnt exactly once.

    Args:
        row: a row with one of the columns `COLUMNS`.
        need_answer: False makes one row of only the last turn: an assistant's turn, or the answer still to be given.

    Raises:
        BadCell: no turns, or none to learn; a system message twice; tools that are no list of functions.
    """
    turns = _messages(row)
    system = _system(row, turns)
    tools = {TOOLS: tools_of(row)} if TOOLS in row else {}
    ends = [index + len(system) for index, turn in enumerate(turns) if turn["role"] == "assistant" and index > 0]
    turns = system + turns
    if not need_answer:
        last = len(turns) - 1
        ends = [last if last in ends else len(turns)]
    if not ends:
        raise BadCell("no assistant turn after another one")
    rows = []
    for end in ends:
        reply = turns[end] if end < len(turns) else None
        made: Row = {"messages": turns[:end], "input": turns[end - 1]["content"] or "", "output": None, **tools}
        if reply is not None:
            made["output"] = reply["content"] or ""
            made |= {_REPLY: reply} if len(reply) > len(("role", "content")) else {}
        new = changed(row, made)
        new.pop("conversations", None)
        rows.append(new)
    return rows
