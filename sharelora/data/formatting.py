"""Choose a format for a file, and bring its rows into that format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sharelora.data import conversations
from sharelora.data.cells import BadCell
from sharelora.data.formats import FORMATS, View
from sharelora.data.readers import Row
from sharelora.errors import UserError

# Columns of an unknown file -> its format; the first line that fits is used.
BY_COLUMNS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("messages",), "chat"),
    (("conversations",), "chat"),
    (("instruction", "output"), "alpaca"),
    (("prompt", "canonical_solution"), "HE"),
    (("prompt", "completion"), "self-instruct"),
    (("problem", "solution"), "MATH"),
    (("question", "answer"), "GSM8K"),
    (("input", "output"), "input-output"),
    (("chosen",), "hh-rlhf"),
)


def _listed(columns: Sequence[str]) -> str:
    return "+".join(columns)


def format_by_columns(columns: Sequence[str]) -> str:
    """Choose the format of a file by its columns.

    Raises:
        UserError: no format has these columns.
    """
    for needed, name in BY_COLUMNS:
        if set(needed) <= set(columns):
            return name
    ways = ", ".join(f"{_listed(needed)} ({name})" for needed, name in BY_COLUMNS)
    raise UserError(f"found the columns {', '.join(columns)}; need one of {ways}; rename them or pass --dataset_format")


def check_format(name: str) -> str:
    """Return a format's name if it exists.

    Raises:
        UserError: it does not.
    """
    if name not in FORMATS:
        raise UserError(f"found dataset_format {name}; need one of {', '.join(FORMATS)}; change --dataset_format")
    return name


def _view(name: str, columns: Sequence[str], need_answer: bool) -> View:
    views = FORMATS[name]
    for view in views:
        if set(view.columns + (view.answers if need_answer else ())) <= set(columns):
            return view
    needed = " or ".join(_listed(view.columns + view.answers) for view in views)
    raise UserError(
        f"found the columns {', '.join(columns)}; format {name} needs {needed}; "
        "rename the columns or pass another --dataset_format"
    )


def only_prompts(rows: list[Row], name: str) -> bool:
    """Whether rows have a prompt of this format but no answer to learn."""
    columns = set(rows[0])
    views = [view for view in FORMATS[name] if view.columns and set(view.columns) <= columns]
    return bool(views) and not any(set(view.answers) <= columns for view in views)


def _plain_row(row: Row, view: View, chat: bool, need_answer: bool) -> Row:
    result = {**row, "input": view.prompt(row), "output": None}
    if need_answer or all(row.get(column) is not None for column in view.answers):
        result["output"] = view.answer(row)
    if chat:
        result["input"] = (view.question or view.prompt)(row)
        result["messages"] = [{"role": "user", "content": result["input"]}]
    return result


def format_rows(rows: list[Row], name: str, *, chat: bool = False, need_answer: bool = True) -> list[list[Row]]:
    """Give every row an `input` (the prompt) and an `output` (the answer); its other columns are kept.

    Args:
        rows: rows as read.
        name: a format of `FORMATS`.
        chat: a chat template is to be used: rows get `messages`, and the bare question as `input`.
        need_answer: every row must have an answer; without, `output` is None where there is none.

    Returns:
        For each row what it gives: one row, or one for each assistant turn of a conversation.

    Raises:
        UserError: columns are missing, or a row does not have what the format needs.
    """
    check_format(name)
    make = _maker(name, list(rows[0]), chat, need_answer)
    made = []
    for number, row in enumerate(rows, 1):
        try:
            made.append(make(row))
        except BadCell as error:
            raise UserError(f"row {number} has {error}; format {name} cannot use it; repair or remove it") from error
    return made


def _maker(name: str, columns: list[str], chat: bool, need_answer: bool) -> Callable[[Row], list[Row]]:
    if name == "chat":
        _require_conversation(columns)
        return partial(conversations.turns_to_rows, need_answer=need_answer)
    view = _view(name, columns, need_answer)
    if chat and not view.columns:
        raise UserError(f"format {name} has no question to put into a chat template; leave out --chat_template")
    return lambda row: [_plain_row(row, view, chat, need_answer)]


def _require_conversation(columns: list[str]) -> None:
    if not set(conversations.COLUMNS) & set(columns):
        raise UserError(
            f"found the columns {', '.join(columns)}; format chat needs {' or '.join(conversations.COLUMNS)}; "
            "rename the column or pass another --dataset_format"
        )
