"""Prompt formats: how the columns of a row become a prompt and its answer.

A format is data: an entry of `FORMATS`. The texts of the prompts are those of QLoRA (`qlora.py`) and of the ShareLoRA
authors' script where they have the format, so that adapters and numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sharelora.data import chat, gsm8k
from sharelora.data.rows import BadCell, Row, cell, optional
from sharelora.support.errors import UserError

Text = Callable[[Row], str]


def _column(name: str) -> Text:
    return lambda row: cell(row, name)


def _nothing(row: Row) -> str:
    return ""


@dataclass(frozen=True)
class View:
    """One way to read a row.

    Args:
        columns: the columns of the prompt.
        answers: the columns of the answer; a row without them can still be predicted.
        prompt: row -> the whole prompt text.
        answer: row -> the text to learn.
        question: row -> the bare question for a chat template; by default the prompt.
    """

    columns: tuple[str, ...]
    answers: tuple[str, ...]
    prompt: Text
    answer: Text
    question: Text | None = None


def _pair(prompt: str, answer: str) -> View:
    return View((prompt,), (answer,), _column(prompt), _column(answer))


# QLoRA's Alpaca prompt, its space after the last colon included.
_ALPACA = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}{input}\n\n### Response: "
)


def _alpaca_prompt(row: Row) -> str:
    context = optional(row, "input")
    return _ALPACA.format(
        more=", paired with an input that provides further context" if context else "",
        instruction=cell(row, "instruction"),
        input=f"\n\n### Input:\n{context}" if context else "",
    )


def _alpaca_question(row: Row) -> str:
    return "\n\n".join(part for part in (cell(row, "instruction"), optional(row, "input")) if part)


def _chip2_parts(row: Row) -> list[str]:
    parts = cell(row, "text").split("\n<bot>: ")
    if len(parts) < 2:
        raise BadCell("no '<bot>: ' line in column text")
    return parts


def _code_prompt(row: Row) -> str:
    # How the hub's HuggingFaceH4/CodeAlpaca_20K makes its `prompt` column of the same three columns.
    return cell(row, "instruction").strip() + "\n" + optional(row, "input").strip()


_ALPACA_VIEW = View(("instruction",), ("output",), _alpaca_prompt, _column("output"), _alpaca_question)

FORMATS: dict[str, tuple[View, ...]] = {
    "alpaca": (_ALPACA_VIEW,),
    "alpaca-clean": (_ALPACA_VIEW,),
    "chip2": (
        View(
            ("text",),
            ("text",),
            lambda row: _chip2_parts(row)[0].replace("<human>: ", ""),
            lambda row: _chip2_parts(row)[1],
        ),
    ),
    "self-instruct": (_pair("prompt", "completion"),),
    "hh-rlhf": (View((), ("chosen",), _nothing, _column("chosen")),),
    "longform": (_pair("input", "output"),),
    "oasst1": (View((), ("text",), _nothing, _column("text")),),
    "input-output": (_pair("input", "output"),),
    "MATH": (
        View(
            ("problem",),
            ("solution",),
            lambda row: f"Problem:\n{cell(row, 'problem')}\n\nSolution:\n",
            _column("solution"),
            _column("problem"),
        ),
    ),
    "GSM8K": (
        View(
            ("question",),
            ("answer",),
            lambda row: gsm8k.prompt(cell(row, "question")),
            gsm8k.learnt_answer,
            _column("question"),
        ),
    ),
    "HF_CODE": (
        _pair("prompt", "completion"),
        View(("instruction",), ("output",), _code_prompt, lambda row: cell(row, "output").strip()),
    ),
    "HE": (_pair("prompt", "canonical_solution"),),
    "chat": (),  # columns of turns, see `chat.turns_to_rows`
}
DEMONSTRATIONS: dict[str, Callable[[], tuple[str, ...]]] = {"GSM8K": gsm8k.demonstrations}
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


def format_by_columns(columns: Sequence[str]) -> str:
    """Choose the format of a file by its columns.

    Raises:
        UserError: no format has these columns.
    """
    for needed, name in BY_COLUMNS:
        if set(needed) <= set(columns):
            return name
    ways = ", ".join(f"{'+'.join(needed)} ({name})" for needed, name in BY_COLUMNS)
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
    needed = " or ".join("+".join(view.columns + view.answers) for view in views)
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
        need_answer: every row must have an answer; False allows rows without one, whose `output` is None.

    Returns:
        For each row what it gives: one row, or one for each assistant turn of a conversation.

    Raises:
        UserError: columns are missing, or a row does not have what the format needs.
    """
    check_format(name)
    convert = _converter(name, list(rows[0]), chat, need_answer)
    converted = []
    for number, row in enumerate(rows, 1):
        try:
            converted.append(convert(row))
        except BadCell as error:
            raise UserError(f"row {number} has {error}; format {name} cannot use it; repair or remove it") from error
    return converted


def _converter(name: str, columns: list[str], chat_template: bool, need_answer: bool) -> Callable[[Row], list[Row]]:
    if name == "chat":
        if not set(chat.COLUMNS) & set(columns):
            raise UserError(
                f"found the columns {', '.join(columns)}; format chat needs {' or '.join(chat.COLUMNS)}; "
                "rename the column or pass another --dataset_format"
            )
        return partial(chat.turns_to_rows, need_answer=need_answer)
    view = _view(name, columns, need_answer)
    if chat_template and not view.columns:
        raise UserError(f"format {name} has no question to put into a chat template; leave out --chat_template")
    return lambda row: [_plain_row(row, view, chat_template, need_answer)]
