"""Numbers in text, as GSM8K's answers are compared: read exactly, never as floating point.

What counts as one number:

- digits, with thousands separators where every group after the first has three: `1,234,567`; `1,23` is two numbers
- a decimal part, also without a whole one: `2.50`, `.5`; a full stop after a number does not count
- a fraction or a mixed number: `3/4`, `1 1/2`; the denominator is not 0, and there is no space around the slash
- a minus sign before it or before its currency sign: `-5`, `-$5`, `$-5`; behind a number, a bracket or a letter a minus
  is a subtraction or a hyphen: `16-3`, `16 -3`, `x-5`
- a currency sign before it and a unit or a percent sign behind it mean nothing: `$18`, `18 dollars`, `25%` is 25

A number of more than `LONGEST` characters is none: Python refuses to read thousands of digits, and a model that repeats
a digit until its text ends has given no answer. `has_too_long` says where that happened, so that it can be counted.
"""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    r"(?P<sign>[-−])?(?:[$€£¥] ?)?(?P<inner>[-−])?"  # noqa: RUF001
    r"(?:(?P<whole>[0-9]+) (?P<top>[0-9]+)/(?P<bottom>0*[1-9][0-9]*)"
    rf"|(?P<plain>{_DIGITS}(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)(?:/(?P<under>0*[1-9][0-9]*))?)"
)
# Before the number of a marked answer; models like to emphasise it.
_MARKS = re.compile(r"(?:####|\bthe final answer is\b)[\s:*]*", re.IGNORECASE)
LONGEST = 1000  # characters of a number
_BEFORE = 40  # characters before a minus that say what it means


def _value(text: str, match: re.Match[str]) -> Fraction | None:
    """The number at a match in a text; None if it is too long."""
    if match.end() - match.start() > LONGEST:
        return None
    if match["whole"]:
        size = int(match["whole"]) + Fraction(int(match["top"]), int(match["bottom"]))
    else:
        size = Fraction(match["plain"].replace(",", "")) / int(match["under"] or 1)
    negative = match["inner"] or (match["sign"] and _is_sign(text[max(0, match.start() - _BEFORE) : match.start()]))
    return -size if negative else size


def _is_sign(before: str) -> bool:
    """Whether a minus is a sign and not a subtraction or a hyphen, by what precedes it."""
    if before[-1:].isalnum() or before.endswith((")", "%")):
        return False
    return not re.search(r"[0-9)%] +\Z", before)


def numbers(text: str) -> list[Fraction]:
    """Every number in a text, in order."""
    return [value for match in _NUMBER.finditer(text) if (value := _value(text, match)) is not None]


def has_too_long(text: str) -> bool:
    """Whether a text has a number of more than `LONGEST` characters."""
    return any(match.end() - match.start() > LONGEST for match in _NUMBER.finditer(text))


def last_number(text: str) -> Fraction | None:
    """The last number in a text: the flexible reading of an answer. None if it has none, or that one is too long."""
    last = deque(_NUMBER.finditer(text), maxlen=1)
    return _value(text, last[0]) if last else None


def marked_number(text: str) -> Fraction | None:
    """The number of the last marked answer, `#### n` or `The final answer is n`: the strict reading.

    The last, because some of the published solutions say "the final answer is" of a quantity on the way. None where
    nothing is marked, or no number follows that mark.
    """
    marks = list(_MARKS.finditer(text))
    match = _NUMBER.match(text, marks[-1].end()) if marks else None
    return None if match is None else _value(text, match)


def answer_number(text: str) -> tuple[str, Fraction | None]:
    r"""The answer in whatever form chat models write it, and the rule that has read it: the first that applies.

    - `marked`: see `marked_number`
    - `boxed`: the last number in the last `\boxed{...}`
    - `last`: the last number of the text
    - `none`: there is no number

    LaTeX is read as what it shows: `70{,}000`, `\$18`, `\frac{1}{2}`, `25\%`; `US$18` is 18.
    """
    plain = _without_latex(text)
    if (number := marked_number(plain)) is not None:
        return "marked", number
    *_, box = plain.rpartition("\\boxed{") if "\\boxed{" in plain else ("",)
    if (number := last_number(_inside(box))) is not None:
        return "boxed", number
    number = last_number(plain)
    return ("none" if number is None else "last"), number


RULES = ("marked", "boxed", "last", "none")
# What LaTeX writes -> the same in plain text.
_LATEX = (
    (re.compile(r"\{,\}|\\,(?=[0-9]{3})"), ","),
    (re.compile(r"\\[dt]?frac\{([0-9]{1,100})\}\{([0-9]{1,100})\}"), r"\1/\2"),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\b(?:US|CA|AU)(?=\$)"), ""),
)


def _without_latex(text: str) -> str:
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text


def _inside(text: str) -> str:
    """What stands before the brace that closes one which was opened before the text; all of it if none does."""
    depth = 1
    for index, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[:index]
    return text


def whole_number(text: str) -> Fraction | None:
    """The number that a text consists of, spaces aside; None if it is something else."""
    match = _NUMBER.fullmatch(text.strip())
    return None if match is None else _value(text.strip(), match)
