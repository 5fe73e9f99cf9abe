"""GSM8K: word problems with worked answers that end in `#### number`, and the prompts that ask them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from sharelora.data.find import parse_split
from sharelora.data.registry import KNOWN
from sharelora.data.rows import BadCell, Row, cell, summary
from sharelora.support.numbers import whole_number

# Worked examples for few-shot prompts, written for this project.
# (question, worked answer). Short on purpose: all eight together leave room for a question within 512 tokens.
WORKED_EXAMPLES = (
    (
        "A bakery sells 14 loaves each hour. It is open for 6 hours and starts the day with 100 loaves. "
        "How many loaves are left at closing time?",
        "In 6 hours it sells 14 * 6 = 84 loaves. So 100 - 84 = 16 loaves are left. The final answer is 16",
    ),
    (
        "Mira has 3 boxes of 12 pencils and gives 5 pencils away. How many pencils does she keep?",
        "She has 3 * 12 = 36 pencils. After giving 5 away, 36 - 5 = 31 remain. The final answer is 31",
    ),
    (
        "A ticket costs $8 and a child pays half. What do 2 adults and 3 children pay?",
        "A child pays 8 / 2 = 4 dollars. Adults: 2 * 8 = 16. Children: 3 * 4 = 12. "
        "Together 16 + 12 = 28. The final answer is 28",
    ),
    (
        "A tank of 90 liters is one third full. How many liters are missing?",
        "It holds 90 / 3 = 30 liters. Missing are 90 - 30 = 60. The final answer is 60",
    ),
    (
        "Omar runs 4 km on each weekday and 9 km on Saturday. How far does he run in 2 weeks?",
        "On weekdays he runs 5 * 4 = 20 km a week. With Saturday that is 20 + 9 = 29 km. "
        "In 2 weeks, 29 * 2 = 58 km. The final answer is 58",
    ),
    (
        "Lea is 7 years older than Tom. Tom will be 20 in 5 years. How old is Lea now?",
        "Tom is now 20 - 5 = 15. Lea is 15 + 7 = 22. The final answer is 22",
    ),
    (
        "A shirt of $40 is sold at 25% off. What does it cost?",
        "The discount is 40 * 25 / 100 = 10 dollars. It costs 40 - 10 = 30. The final answer is 30",
    ),
    (
        "Five friends share 48 cards equally and put the rest aside. How many are put aside?",
        "Each gets 48 // 5 = 9 cards, which uses 5 * 9 = 45. Aside are 48 - 45 = 3. The final answer is 3",
    ),
)
SHOTS = len(WORKED_EXAMPLES)
# A model that continues after its answer asks the next question.
STOP = ("\nQuestion:",)


@dataclass(frozen=True)
class WordProblem:
    """One word problem.

    Args:
        question: the problem.
        solution: the worked answer, as published.
        answer: the number that it ends with.
    """

    question: str
    solution: str
    answer: Fraction

    @property
    def prompt(self) -> str:
        """The problem as models are tuned to read it."""
        return prompt(self.question)


def prompt(question: str) -> str:
    """A question up to where its answer begins."""
    return f"Question: {question}\n\nAnswer:"


def learnt_answer(row: Row) -> str:
    """The answer of a row in the words that are learnt, `The final answer is n` instead of `#### n`.

    Raises:
        BadCell: it does not end with a number so marked.
    """
    steps, line_end, last = cell(row, "answer").rstrip().rpartition("\n")
    before, _, number = last.partition("####")
    if not number.strip():
        raise BadCell("no '#### number' at the end of column answer")
    return f" {(steps + line_end + before).rstrip()} The final answer is {number.strip()}"


def without_calculator(text: str) -> str:
    """Remove GSM8K's calculator marks, `<<48/2=24>>`: the number is repeated after each mark anyway."""
    return re.sub(r"<<[^<>]*>>", "", text)


def demonstrations() -> tuple[str, ...]:
    """The worked examples in the form of a prompt and its answer, each ending in a blank line."""
    return tuple(f"{prompt(question)} {answer}\n\n" for question, answer in WORKED_EXAMPLES)


def examples(shots: int) -> str:
    """The first worked examples as one text, to go before a problem.

    Args:
        shots: how many, up to `SHOTS`.
    """
    return "".join(demonstrations()[:shots])


def load_gsm8k(split: str = "test", root: str | Path | None = None) -> list[WordProblem]:
    """Load one split.

    Args:
        split: `train` or `test`.
        root: folder of local data with `gsm8k/<split>.jsonl`, see `find.data_folder`.

    Raises:
        UserError: no data, or a malformed row (file and row are named).
    """
    return parse_split(KNOWN["gsm8k"], split, _problem, root)


def _problem(row: Row) -> WordProblem:
    question, solution = cell(row, "question"), cell(row, "answer")
    _, mark, text = solution.rpartition("####")
    answer = whole_number(text) if mark else None
    if answer is None:
        raise BadCell(f"no '#### number' at the end of column answer: '{summary(solution[-60:])}'")
    return WordProblem(question, solution, answer)
