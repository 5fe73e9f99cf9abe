"""What models and files say is read in time that grows with its length, and never ends a run, whatever it says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from sharelora.data.code_answers import read_code
from sharelora.data.commonsense import TASKS, find_answer
from sharelora.data.gsm8k import WordProblem, learnt_answer, without_calculator
from sharelora.data.mmlu import _from_text
from sharelora.data.nlg.linearise import linearise_mr, spaced
from sharelora.data.rows import BadCell
from sharelora.evaluation.generation.settings import Generated
from sharelora.evaluation.gsm8k import Gsm8kReport, table
from sharelora.evaluation.vision.judge import points
from sharelora.flags.sharing import parse_groups
from sharelora.layer_groups.texts import _paragraphs
from sharelora.metrics.captions import tokenise
from sharelora.reporting.compare import common_name
from sharelora.support.errors import UserError
from sharelora.support.numbers import answer_number, has_too_long, marked_number, numbers, whole_number
from sharelora.support.secrets import hide, redacted

LENGTH = 20_000
# Each is repeated; what follows it keeps a pattern from matching.
PIECES = (
    *(
        "1",
        "0",
        "9,999,",
        "1.",
        "1/",
        "/0",
        "-1 ",
        "-",
        "$",
        "1 1/",
        "1 2/0",
        "\\frac{1}{1",
        "\\boxed{",
        "{",
        "}",
        "٣",
        "²",
    ),
    *(
        " ",
        "\t",
        "\n",
        " \n",
        "#",
        "#### ",
        "####\n",
        "the final answer is ",
        "<<",
        "<<1",
        ">>",
        "a",
        "A.",
        "n't",
        "don't ",
    ),
    *(
        "\nA. ",
        "\nB. \nC. ",
        "```",
        "``` \t",
        "~~~a",
        "def f(",
        '"""',
        ".",
        "..",
        "?",
        "'",
        "[",
        "a[b",
        "a,",
        "-_",
        "seed=",
        "_",
    ),
    *("\0", "\ud83d", "\u2028", "answer", "hf_", "hf_oauth_", "--token=", "a_b-", "&", "/", "a-", "mr. "),
)
ENDS = ("", "x", "1", "\n", "!\n1 ", "/0", "####")
READERS: dict[str, Callable[[str], Any]] = {
    "numbers": numbers,
    "marked_number": marked_number,
    "answer_number": answer_number,
    "whole_number": whole_number,
    "has_too_long": has_too_long,
    "find_answer": lambda text: find_answer("boolq", text),
    "points": points,
    "read_code": lambda text: read_code(text, "def f(x):\n", "f"),
    "learnt_answer": lambda text: learnt_answer({"answer": text}),
    "without_calculator": without_calculator,
    "mmlu": lambda text: _from_text("law", text, "A"),
    "linearise_mr": linearise_mr,
    "spaced": spaced,
    "captions": lambda text: tokenise([text]),
    "hide": hide,
    "redacted": lambda text: redacted([text]),
    "common_name": lambda text: common_name([text[:1000], text[:1000] + "1"]),
    "paragraphs": _paragraphs,
    "groups": parse_groups,
}


def seconds(read: Callable[[str], Any], text: str) -> float:
    began = time.process_time()
    try:
        read(text)
    except (UserError, BadCell, ValueError) as error:  # whoever goes through the rows names the row
        assert not isinstance(error, UnicodeError | json.JSONDecodeError), error
    return time.process_time() - began


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_no_text_takes_long(name: str) -> None:
    """Reading LENGTH characters takes milliseconds; a pattern that tries every part of a run would take seconds."""
    slowest = max(
        (seconds(READERS[name], piece * (LENGTH // len(piece)) + end), piece, end) for piece in PIECES for end in ENDS
    )
    assert slowest[0] < 1, slowest


@pytest.mark.parametrize("piece", ["1", "-", " ", "#### ", "\nA. ", "?", "a[b", "<<"])
def test_texts_of_one_repeated_piece(piece: str) -> None:
    for name, read in READERS.items():
        assert seconds(read, piece * (4000 // len(piece)) + "x") < 1, name


@pytest.mark.parametrize(
    "text",
    [
        "1" * 4301,
        "#### " + "1" * 4301,
        "1" * 400 + ".5",
        "7/" + "3" * 400,
        "1" * 900 + " 1/3",
        "0." + "1" * 990,
        "9" * 1001,
    ],
)
def test_a_generated_number_of_any_length_is_scored(text: str) -> None:
    problems = [WordProblem("q", "", Fraction(18)), WordProblem("p", "", Fraction(18))]
    report = Gsm8kReport(problems, [Generated(text, 3, "eos"), Generated("#### 18", 3, "eos")])
    metrics, rows = report.metrics(), report.rows()
    assert (metrics["right"], metrics["questions"]) == (1, 2)
    assert metrics["with_too_long_number"] == (len(text.split()[-1]) > 1000)
    assert json.loads(json.dumps(rows)) == rows and table("t", metrics)
    assert ("characters" in table("t", metrics)) == (len(text.split()[-1]) > 1000)


def test_a_number_that_is_too_long_is_not_replaced_by_the_one_before() -> None:
    report = Gsm8kReport([WordProblem("q", "", Fraction(18))], [Generated(f"18 or {'1' * 2000}", 3, "eos")])
    assert report.flexible == [None] and report.read == [("none", None)]


@pytest.mark.parametrize("word", ["true", "FALSE"])
def test_a_word_is_found_in_a_long_text(word: str) -> None:
    assert find_answer("boolq", "a" * LENGTH + word) == word.lower() and word.lower() in TASKS["boolq"]
