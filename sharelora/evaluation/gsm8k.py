"""GSM8K: the prompts, and how texts that were generated are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sharelora.data.gsm8k import WordProblem, examples
from sharelora.evaluation.generation import Generated, Prompt
from sharelora.metrics import accuracy
from sharelora.support.numbers import last_number, marked_number


def write_prompts(problems: Sequence[WordProblem], shots: int) -> list[Prompt]:
    """Write every problem behind the worked examples; a problem's draws depend on its text, not on its place."""
    prefix = examples(shots)
    return [Prompt(prefix, problem.prompt, problem.question) for problem in problems]


@dataclass(frozen=True)
class Report:
    """Problems and the texts that answer them.

    Args:
        problems: what was asked.
        texts: one for each.
    """

    problems: Sequence[WordProblem]
    texts: Sequence[Generated]

    @property
    def strict(self) -> list[Fraction | None]:
        """The marked answer of every text, see `sharelora.support.numbers.marked_number`."""
        return [marked_number(text.text) for text in self.texts]

    @property
    def flexible(self) -> list[Fraction | None]:
        """The last number of every text."""
        return [last_number(text.text) for text in self.texts]

    def rows(self) -> list[dict[str, Any]]:
        """One record per problem: the text, both readings of it, and which of them are right."""
        parts = zip(self.problems, self.texts, self.strict, self.flexible, strict=True)
        return [
            {
                **text_row(problem, text),
                "prediction": _shown(strict),
                "right": strict == problem.answer,
                "prediction_flexible": _shown(flexible),
                "right_flexible": flexible == problem.answer,
            }
            for problem, text, strict, flexible in parts
        ]

    def metrics(self) -> dict[str, Any]:
        """Every number of the report.

        `accuracy` is strict: the last answer in the prompt's own form counts. `accuracy_flexible` takes the last
        number of a text, whatever stands around it.
        """
        strict, flexible = self._accuracy(self.strict), self._accuracy(self.flexible)
        return {
            "accuracy": strict.mean,
            "accuracy_stderr": strict.standard_error,
            "accuracy_flexible": flexible.mean,
            "accuracy_flexible_stderr": flexible.standard_error,
            "questions": strict.count,
            "right": strict.right,
            "right_flexible": flexible.right,
            "without_answer": self.strict.count(None),
            "without_number": self.flexible.count(None),
        }

    def _accuracy(self, found: Sequence[Fraction | None]) -> accuracy.Accuracy:
        return accuracy.accuracy([value == asked.answer for value, asked in zip(found, self.problems, strict=True)])


def text_row(problem: WordProblem, text: Generated) -> dict[str, Any]:
    """What is known of a problem before its text is scored."""
    return {
        "question": problem.question,
        "answer": _shown(problem.answer),
        "text": text.text,
        "tokens": text.tokens,
        "ended": text.ended,
    }


def _shown(value: Fraction | None) -> str | None:
    """A number as text, exactly: as a decimal where it has an end, else as a fraction."""
    if value is None or value.denominator == 1:
        return None if value is None else str(value.numerator)
    decimal = str(float(value))
    return decimal if Fraction(decimal) == value else str(value)


def table(title: str, found: Mapping[str, Any]) -> str:
    """The result in a few lines."""
    rows = (("the marked answer", "accuracy", "right"), ("the last number", "accuracy_flexible", "right_flexible"))
    lines = [title]
    for name, score, right in rows:
        error = found[f"{score}_stderr"]
        shown = "" if error is None else f" ± {error:.4f}"
        lines.append(f"  {name:<20}{found[score]:8.4f}{shown}{found[right]:8,} of {found['questions']:,}")
    return "\n".join([*lines, f"  {found['without_answer']:,} texts without a marked answer"])
