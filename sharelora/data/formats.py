"""Prompt formats: how the columns of a row become a prompt and its answer.

A format is data: an entry of `FORMATS`. The texts of the prompts are those of QLoRA (`qlora.py`) and of the ShareLoRA
authors' script where they have the format, so that adapters and numbers can be compared.

Two more columns are read where a row has them. `system` stands before the whole prompt, with an empty line between, and
is the system message of a chat template. `history`, a list of [question, answer], is what was said before: earlier
sections of Alpaca's prompt, and earlier turns of a chat template. Only the last answer is learnt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sharelora.data import gsm8k
from sharelora.data.chat import COLUMNS as TURNS
from sharelora.data.chat import USED, opening, tools_of, turns_to_rows
from sharelora.data.rows import BadCell, Row, cell, changed, columns_of, missing, optional, place
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
        optional: columns that the prompt has too where a row has them.
    """

    columns: tuple[str, ...]
    answers: tuple[str, ...]
    prompt: Text
    answer: Text
    question: Text | None = None
    optional: tuple[str, ...] = ()

    def used(self, chat: bool) -> set[str]:
        """The columns that prompts and answers are made of."""
        more = ("system", *(("history", "tools") if chat else ())) if self.columns else ()
        return {*self.columns, *self.answers, *self.optional, *more}


def _pair(prompt: str, answer: str) -> View:
    return View((prompt,), (answer,), _column(prompt), _column(answer))


# QLoRA's Alpaca prompt, its space after the last colon included.
_ALPACA = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request."
    "\n\n{earlier}### Instruction:\n{instruction}{input}\n\n### Response: "
)
_ALPACA_EARLIER = "### Instruction:\n{}\n\n### Response: {}\n\n"


def _history(row: Row) -> list[tuple[str, str]]:
    """Earlier questions and their answers; none where the row has no such column.

    Raises:
        BadCell: no list of pairs of texts.
    """
    pairs = [] if missing(row.get("history")) else row["history"]
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise BadCell("no list of [question, answer] in column history")
    return [
        (cell({"history": question}, "history"), cell({"history": answer}, "history")) for question, answer in pairs
    ]


def _alpaca_prompt(row: Row) -> str:
    context = optional(row, "input")
    return _ALPACA.format(
        more=", paired with an input that provides further context" if context else "",
        earlier="".join(_ALPACA_EARLIER.format(*pair) for pair in _history(row)),
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


def _alpaca(answer: str) -> View:
    more = ("input", "history")
    return View(("instruction",), (answer,), _alpaca_prompt, _column(answer), _alpaca_question, more)


_ALPACA_VIEW = _alpaca("output")

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
    # The set of this name has the whole conversation in `chosen`; others have its question in a column of its own.
    "hh-rlhf": (_pair("prompt", "chosen"), _alpaca("chosen"), View((), ("chosen",), _nothing, _column("chosen"))),
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
        View(
            ("instruction",),
            ("output",),
            _code_prompt,
            lambda row: cell(row, "output").strip(),
            optional=("input",),
        ),
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


def format_of(rows: Sequence[Row]) -> str:
    """Choose the format of rows by the columns of all of them: the first row may lack a value.

    Raises:
        UserError: no format has these columns.
    """
    return format_by_columns(columns_of(rows))


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
    columns = set(columns_of(rows))
    views = [view for view in FORMATS[name] if view.columns and set(view.columns) <= columns]
    return bool(views) and not any(set(view.answers) <= columns for view in views)


def _plain_row(row: Row, view: View, chat: bool, need_answer: bool) -> Row:
    system = optional(row, "system").strip() if view.columns else ""
    made: Row = {"input": view.prompt(row), "output": None}
    if system:
        made["input"] = f"{system}\n\n{made['input']}"
    if need_answer or not any(missing(row.get(column)) for column in view.answers):
        made["output"] = view.answer(row)
    if chat:
        made["input"] = (view.question or view.prompt)(row)
        made["messages"] = opening(system, _history(row), made["input"])
        made |= {"tools": tools_of(row)} if "tools" in row else {}
    return changed(row, made)


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
    convert = _converter(name, columns_of(rows), chat, need_answer)
    converted = []
    for number, row in enumerate(rows, 1):
        try:
            converted.append(convert(row))
        except BadCell as error:
            where = place(row, number)
            raise UserError(f"{where} has {error}; format {name} cannot use it; repair or remove it") from error
    return converted


def unused_columns(rows: Sequence[Row], name: str, *, chat: bool = False) -> dict[str, int]:
    """Columns that are in no prompt and no answer, and how many rows have a value in each.

    Args:
        rows: rows as read.
        name: a format of `FORMATS`.
        chat: a chat template is used.
    """
    if name == "chat":
        used = set(USED)
    else:
        columns = set(columns_of(rows))
        view = next((view for view in FORMATS[name] if set(view.columns) <= columns), FORMATS[name][0])
        used = view.used(chat)
    return dict(Counter(column for row in rows for column, value in row.items() if column not in used and value))


def _converter(name: str, columns: list[str], chat: bool, need_answer: bool) -> Callable[[Row], list[Row]]:
    if name == "chat":
        if not set(TURNS) & set(columns):
            raise UserError(
                f"found the columns {', '.join(columns)}; format chat needs {' or '.join(TURNS)}; "
                "rename the column or pass another --dataset_format"
            )
        return partial(turns_to_rows, need_answer=need_answer)
    view = _view(name, columns, need_answer)
    if chat and not view.columns:
        raise UserError(f"format {name} has no question to put into a chat template; leave out --chat_template")
    return lambda row: [_plain_row(row, view, chat, need_answer)]
