"""Numbers in generated answers: what counts as one, which of them is the answer, and exact comparison."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharelora.data.gsm8k import WORKED_EXAMPLES
from sharelora.support.numbers import (
    answer_number,
    has_too_long,
    last_number,
    marked_number,
    numbers,
    whole_number,
)

HALF, THREE_QUARTERS = Fraction(1, 2), Fraction(3, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Plain
        ("18", [18]),
        ("18.", [18]),
        ("There are 3 hats and 12 coats.", [3, 12]),
        ("nothing", []),
        ("", []),
        ("007", [7]),
        # Thousands separators
        ("1,234,567 people", [1234567]),
        ("70,000.50", [Fraction(140001, 2)]),
        ("1,23", [1, 23]),
        ("1,2345", [1, 2345]),
        ("1, 2, 3", [1, 2, 3]),
        ("12,000,", [12000]),
        # Currency and units
        ("$18", [18]),
        ("$ 18", [18]),
        ("€1,000", [1000]),
        ("18 dollars", [18]),
        ("18$", [18]),
        ("5km", [5]),
        # Decimals
        ("2.50", [Fraction(5, 2)]),
        ("18.00", [18]),
        (".5", [HALF]),
        ("costs .75.", [THREE_QUARTERS]),
        ("5.", [5]),
        ("3.14.15", [Fraction(157, 50), 15]),
        # Signs
        ("-5", [-5]),
        ("−5", [-5]),  # noqa: RUF001
        ("-$5", [-5]),
        ("$-5", [-5]),
        ("is -3.", [-3]),
        ("(-3)", [-3]),
        ("=-3", [-3]),
        ("16-3", [16, 3]),
        ("16 - 3", [16, 3]),
        ("16 -3", [16, 3]),
        ("(2 + 4)-3", [2, 4, 3]),
        ("(2 + 4) -3", [2, 4, 3]),
        ("50% -3", [50, 3]),
        ("x-5", [5]),
        ("top-10", [10]),
        ("2 - -3", [2, -3]),
        ("5–10", [5, 10]),  # noqa: RUF001
        ("- 5 apples", [5]),
        # Fractions and percent
        ("3/4", [THREE_QUARTERS]),
        ("1 1/2 cups", [Fraction(3, 2)]),
        ("-1/2", [-HALF]),
        ("-1 1/2", [Fraction(-3, 2)]),
        ("8 / 2 = 4", [8, 2, 4]),
        ("3/0", [3, 0]),
        ("1,000/4", [250]),
        ("25%", [25]),
        ("12.5 %", [Fraction(25, 2)]),
        # Calculator marks of the data set
        ("9 * 2 = $<<9*2=18>>18", [9, 2, 9, 2, 18, 18]),
    ],
)
def test_numbers(text: str, expected: list[Fraction]) -> None:
    assert numbers(text) == expected
    assert last_number(text) == (expected[-1] if expected else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so 3 + 4 = 7.\n#### 7", 7),
        ("#### 1,234", 1234),
        ("####7", 7),
        ("#### $7.50 or so", Fraction(15, 2)),
        ("#### -3", -3),
        (" The final answer is 18", 18),
        ("the FINAL answer is: $18.", 18),
        ("The final answer is **18**.", 18),
        ("The final answer is\n18", 18),
        ("The final answer is -3/4", -THREE_QUARTERS),
        ("The final answer is 25%", 25),
        # The last marked answer counts, whatever came before it.
        ("The final answer is 15 gallons * 8 = 120 pints. The final answer is 120", 120),
        ("The final answer is 3.\n#### 4", 4),
        ("The final answer is 4. The final answer is unknown", None),
        ("The answer is 18", None),
        ("3 + 4 = 7", None),
        ("#### seven", None),
        ("####", None),
        ("", None),
    ],
)
def test_the_marked_answer(text: str, expected: Fraction | None) -> None:
    assert marked_number(text) == expected


def test_the_two_readings_differ() -> None:
    text = "The final answer is 18 dollars, which she spends in 3 days."
    assert (marked_number(text), last_number(text)) == (18, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(" 18 ", 18), ("-1,000", -1000), ("2.5", Fraction(5, 2)), ("18 eggs", None), ("1 2", None), ("", None)],
)
def test_a_text_that_is_a_number(text: str, expected: Fraction | None) -> None:
    assert whole_number(text) == expected


@given(st.integers(-(10**9), 10**9), st.integers(0, 99))
def test_every_way_to_write_a_number_is_the_same_number(whole: int, cents: int) -> None:
    expected = Fraction(abs(whole) * 100 + cents, 100) * (-1 if whole < 0 else 1)
    sign = "-" if whole < 0 else ""
    for size in (f"{abs(whole)}.{cents:02}", f"{abs(whole):,}.{cents:02}"):
        for text in (f"{sign}{size}", f"{sign}${size}", f"It is {sign}{size}.", f"is {sign}{size} dollars"):
            assert numbers(text) == [expected], text


@pytest.mark.parametrize(("question", "answer"), WORKED_EXAMPLES)
def test_the_worked_examples_end_with_their_answer_in_both_readings(question: str, answer: str) -> None:
    assert marked_number(answer) == last_number(answer) is not None


@pytest.mark.realdata
def test_every_published_answer_is_a_number(shared_data: Path) -> None:
    from sharelora.data.gsm8k import load_gsm8k

    for split, count in (("test", 1319), ("train", 7473)):
        problems = load_gsm8k(split, shared_data)
        assert len(problems) == count
        for problem in problems:
            written = problem.solution.rpartition("####")[2].strip().replace(",", "")
            assert problem.answer == Fraction(written)
            assert marked_number(problem.solution) == last_number(problem.solution) == problem.answer
        assert not {question for question, _ in WORKED_EXAMPLES} & {problem.question for problem in problems}


@pytest.mark.parametrize(
    ("text", "rule", "expected"),
    [
        ("#### 18", "marked", 18),
        ("The final answer is 18.", "marked", 18),
        ("The final answer is \\$70{,}000.", "marked", 70000),
        ("The final answer is US$18", "marked", 18),
        ("so \\(\\boxed{5}\\).", "boxed", 5),
        ("\\boxed{3} no, \\boxed{4} of 7", "boxed", 4),
        ("$\\boxed{\\text{about } 70{,}000 \\text{ cm}}$ in 3 days", "boxed", 70000),
        ("\\boxed{\\frac{1}{2}}", "boxed", HALF),
        ("\\boxed{-18}", "boxed", -18),
        ("\\boxed{12", "boxed", 12),
        ("\\boxed{x} is 9", "last", 9),
        ("She pays US$18.", "last", 18),
        ("It costs $18.00 in all.", "last", 18),
        ("that is 18%", "last", 18),
        ("that is 18\\%", "last", 18),
        ("1/2", "last", HALF),
        ("18 eggs.", "last", 18),
        ("-5.", "last", -5),
        ("eighteen", "none", None),
        ("", "none", None),
    ],
)
def test_an_answer_in_any_form(text: str, rule: str, expected: Fraction | None) -> None:
    assert answer_number(text) == (rule, expected)


def test_a_number_of_thousands_of_digits_is_no_answer() -> None:
    long = "1" * 5000
    assert numbers(f"{long} and 3") == [3]
    assert last_number(f"3 or {long}") is None and has_too_long(f"3 or {long}") and not has_too_long("3")
    assert (last_number(long), marked_number(f"#### {long}"), whole_number(long)) == (None, None, None)
    assert answer_number(f"\\boxed{{{long}}} or \\frac{{{long}}}{{2}}") == ("last", 2)
