"""Numbers in text, as GSM8K's answers are compared: read exactly, never as floating point.

What counts as one number:

- digits, with thousands separators where every group after the first has three: `1,234,567`; `1,23` is two numbers
- a decimal part, also without a whole one: `2.50`, `.5`; a full stop after a number does not count
- a fraction or a mixed number: `3/4`, `1 1/2`; the denominator is not 0, and there is no space around the slash
- a minus sign before it or before its currency sign: `-5`, `-$5`, `$-5`; behind a number, a bracket or a letter a minus
  is a subtraction or a hyphen: `16-3`, `16 -3`, `x-5`
- a currency sign before it and a unit or a percent sign behind it mean nothing: `$18`, `18 dollars`, `25%` is 25
"""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    r"(?P<sign>[-−])?(?:[$€£¥] ?)?(?P<inner>[-−])?"  # noqa: RUF001
    r"(?:(?P<whole>[0-9]+) (?P<top>[0-9]+)/(?P<bottom>0*[1-9][0-9]*)"
    rf"|(?P<plain>{_DIGITS}(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)(?:/(?P<under>0*[1-9][0-9]*))?)"
)
# Before the number of a marked answer; models like to emphasise it.
_MARKS = re.compile(r"(?:####|\bthe final answer is\b)[\s:*]*", re.IGNORECASE)


def _value(text: str, match: re.Match[str]) -> Fraction:
    if match["whole"]:
        size = int(match["whole"]) + Fraction(int(match["top"]), int(match["bottom"]))
    else:
        size = Fraction(match["plain"].replace(",", "")) / int(match["under"] or 1)
    negative = match["inner"] or (match["sign"] and _is_sign(text[: match.start()]))
    return -size if negative else size


def _is_sign(before: str) -> bool:
    """Whether a minus is a sign and not a subtraction or a hyphen, by what precedes it."""
    if before[-1:].isalnum() or before.endswith((")", "%")):
        return False
    return not re.search(r"[0-9)%] +\Z", before[-40:])


def numbers(text: str) -> list[Fraction]:
    """Every number in a text, in order."""
    return [_value(text, match) for match in _NUMBER.finditer(text)]


def last_number(text: str) -> Fraction | None:
    """The last number in a text: the flexible reading of an answer. None if it has none."""
    values = numbers(text)
    return values[-1] if values else None


def marked_number(text: str) -> Fraction | None:
    """The number of the last marked answer, `#### n` or `The final answer is n`: the strict reading.

    The last, because some of the published solutions say "the final answer is" of a quantity on the way. None where
    nothing is marked, or no number follows that mark.
    """
    marks = list(_MARKS.finditer(text))
    match = _NUMBER.match(text, marks[-1].end()) if marks else None
    return None if match is None else _value(text, match)


def whole_number(text: str) -> Fraction | None:
    """The number that a text consists of, spaces aside; None if it is something else."""
    match = _NUMBER.fullmatch(text.strip())
    return None if match is None else _value(text.strip(), match)
