"""Prompt formats: how the columns of a row become a prompt and its answer.

A format is data: an entry of `FORMATS`. The texts of the prompts are those of QLoRA (`qlora.py`) and of the ShareLoRA
authors' script where they have the format, so that adapters and numbers can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sharelora.data import demonstrations
from sharelora.data.cells import BadCell, cell, optional
from sharelora.data.readers import Row

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
    given = optional(row, "input")
    return _ALPACA.format(
        more=", paired with an input that provides further context" if given else "",
        instruction=cell(row, "instruction"),
        input=f"\n\n### Input:\n{given}" if given else "",
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


def _gsm8k_prompt(row: Row) -> str:
    return f"Question: {cell(row, 'question')}\n\nAnswer:"


def _gsm8k_answer(row: Row) -> str:
    answer, found = re.subn(r"\s*####\s*(.*\S)\s*\Z", r" The final answer is \1", cell(row, "answer"))
    if not found:
        raise BadCell("no '#### number' at the end of column answer")
    return " " + answer


def without_calculator(text: str) -> str:
    """Remove GSM8K's calculator marks, `<<48/2=24>>`: the number stands after each mark anyway."""
    return re.sub(r"<<[^<>]*>>", "", text)


def gsm8k_demonstrations() -> tuple[str, ...]:
    """The worked examples in the form of a prompt and its answer, each ending in a blank line."""
    return tuple(f"Question: {question}\n\nAnswer: {answer}\n\n" for question, answer in demonstrations.GSM8K)


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
    "GSM8K": (View(("question",), ("answer",), _gsm8k_prompt, _gsm8k_answer, _column("question")),),
    "HF_CODE": (
        _pair("prompt", "completion"),
        View(("instruction",), ("output",), _code_prompt, lambda row: cell(row, "output").strip()),
    ),
    "HE": (_pair("prompt", "canonical_solution"),),
    "chat": (),  # columns of turns: see conversations.py
}
DEMONSTRATIONS: dict[str, Callable[[], tuple[str, ...]]] = {"GSM8K": gsm8k_demonstrations}
