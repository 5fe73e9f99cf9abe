"""Conversations: rows whose text is a list of turns."""

from __future__ import annotations

from sharelora.data.cells import BadCell
from sharelora.data.readers import Row

COLUMNS = ("messages", "conversations")
_ROLES = {"human": "user", "gpt": "assistant"}


def _messages(row: Row) -> list[dict[str, str]]:
    """A conversation as role and content; `conversations` with from and value is read too."""
    turns = row.get("messages") or row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadCell(f"no list of turns in column {' or '.join(COLUMNS)}")
    found = []
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise BadCell("a turn without role and content as text")
        found.append({"role": _ROLES.get(role, role), "content": content})
    return found


def turns_to_rows(row: Row, need_answer: bool) -> list[Row]:
    """One row for each assistant turn: everything before it is the prompt, so each turn is learnt exactly once.

    Args:
        row: a row with one of the columns `COLUMNS`.
        need_answer: without, one row for what comes last: its assistant turn, or the answer still to be given.

    Raises:
        BadCell: no turns, or none to learn.
    """
    turns = _messages(row)
    kept = {key: value for key, value in row.items() if key not in COLUMNS}
    ends = [index for index, turn in enumerate(turns) if turn["role"] == "assistant" and index > 0]
    if not need_answer:
        last = len(turns) - 1
        ends = [last if last in ends else len(turns)]
    if not ends:
        raise BadCell("no assistant turn after another one")
    rows = []
    for end in ends:
        answer = turns[end]["content"] if end < len(turns) else None
        rows.append({**kept, "messages": turns[:end], "input": turns[end - 1]["content"], "output": answer})
    return rows
