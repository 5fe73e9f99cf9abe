"""GSM8K: worked answers that a model writes, and two readings of their last number."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sharelora.data.gsm8k import WordProblem, examples, load_gsm8k
from sharelora.evaluation.commands import Gsm8kOptions
from sharelora.evaluation.generation.job import TEXTS, generate_texts, prepare_generation, write_texts
from sharelora.evaluation.generation.settings import Generated, Prompt
from sharelora.evaluation.subject import data_root, locate_subject, write_evaluation
from sharelora.metrics import accuracy
from sharelora.support.numbers import LONGEST, RULES, answer_number, has_too_long, last_number, marked_number

logger = logging.getLogger(__name__)


def run(options: Gsm8kOptions, began: float) -> None:
    """Generate worked answers, score, write and print.

    Args:
        options: the flags.
        began: when the command did, by `time.monotonic`.

    Raises:
        UserError: an error that the user can fix; found before the model is loaded wherever possible.
    """
    subject = locate_subject(options)
    problems = options.choose(load_gsm8k(options.split, data_root(options.data_root, options.tiny)))
    job = prepare_generation(options, subject, write_prompts(problems, options.shots))
    if options.dry_run:
        logger.info("dry run: %s, %d questions; nothing was written", subject, len(problems))
        return
    result = generate_texts(job, "GSM8K")
    if options.generate_only:
        rows = [text_row(problem, text) for problem, text in zip(problems, result.texts, strict=True)]
        print(f"{write_texts(job, result, rows, TEXTS)}; nothing was scored")
        return
    report = Gsm8kReport(problems, result.texts)
    metrics = {**report.metrics(), **result.metrics()}
    seconds = time.monotonic() - began
    write_evaluation(options, "gsm8k", subject, result.model, report.rows(), metrics, seconds, job.begin)
    print(table(f"GSM8K {options.split}, {options.shots}-shot", metrics))
    print(f"{result.line()}\n{job.begin.line()}\nwrote {options.output}")


def write_prompts(problems: Sequence[WordProblem], shots: int) -> list[Prompt]:
    """Write every problem behind the worked examples; its random numbers depend on its text, not on its index."""
    prefix = examples(shots)
    return [Prompt(prefix, problem.prompt, problem.question) for problem in problems]


@dataclass(frozen=True)
class Gsm8kReport:
    """Problems and the texts that answer them.

    Args:
        problems: the questions.
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

    @property
    def read(self) -> list[tuple[str, Fraction | None]]:
        """The rule that has read each text, and its answer, see `sharelora.support.numbers.answer_number`."""
        return [answer_number(text.text) for text in self.texts]

    def rows(self) -> list[dict[str, Any]]:
        """One record per problem: the text, the readings of it, and which of them are right."""
        parts = zip(self.problems, self.texts, self.strict, self.flexible, self.read, strict=True)
        return [
            {
                **text_row(problem, text),
                "prediction": _exact(strict),
                "right": strict == problem.answer,
                "prediction_flexible": _exact(flexible),
                "right_flexible": flexible == problem.answer,
                "read_by": rule,
                "prediction_any": _exact(number),
                "right_any": number == problem.answer,
            }
            for problem, text, strict, flexible, (rule, number) in parts
        ]

    def metrics(self) -> dict[str, Any]:
        """Every number of the report.

        `accuracy` is strict: the last answer in the prompt's own form counts. `accuracy_flexible` takes the last
        number of a text, whatever surrounds it. These two are the published scores. `accuracy_any` also reads what chat
        models write, and `read_by` counts the texts by the rule that has read them; `none` could not be read.
        `with_too_long_number` counts the texts that have a number which is too long to be one.
        """
        rules, numbers = zip(*self.read, strict=True)
        anyhow = self._accuracy(numbers)
        strict, flexible = self._accuracy(self.strict), self._accuracy(self.flexible)
        return {
            "accuracy": strict.mean,
            "accuracy_stderr": strict.standard_error,
            "accuracy_flexible": flexible.mean,
            "accuracy_flexible_stderr": flexible.standard_error,
            "accuracy_any": anyhow.mean,
            "accuracy_any_stderr": anyhow.standard_error,
            "right_any": anyhow.right,
            "read_by": {rule: rules.count(rule) for rule in RULES},
            "questions": strict.count,
            "right": strict.right,
            "right_flexible": flexible.right,
            "without_answer": self.strict.count(None),
            "without_number": self.flexible.count(None),
            "with_too_long_number": sum(has_too_long(text.text) for text in self.texts),
        }

    def _accuracy(self, predictions: Sequence[Fraction | None]) -> accuracy.Accuracy:
        pairs = zip(predictions, self.problems, strict=True)
        return accuracy.accuracy([prediction == problem.answer for prediction, problem in pairs])


def text_row(problem: WordProblem, text: Generated) -> dict[str, Any]:
    """The record of a problem whose text is not scored."""
    return {"question": problem.question, "answer": _exact(problem.answer), **text.to_json()}


def _exact(value: Fraction | None) -> str | None:
    """A number as text, exactly: as a decimal where that is finite, else as a fraction."""
    if value is None:
        return None
    with suppress(OverflowError):  # beyond the largest float
        decimal = str(float(value))
        if value.denominator != 1 and Fraction(decimal) == value:
            return decimal
    return str(value)


def table(title: str, metrics: Mapping[str, Any]) -> str:
    """The result in a few lines."""
    rows = (
        ("the marked answer", "accuracy", "right"),
        ("the last number", "accuracy_flexible", "right_flexible"),
        ("in any form", "accuracy_any", "right_any"),
    )
    lines = [title]
    for name, score, right in rows:
        error = metrics[f"{score}_stderr"]
        shown = "" if error is None else f" ± {error:.4f}"
        lines.append(f"  {name:<20}{metrics[score]:8.4f}{shown}{metrics[right]:8,} of {metrics['questions']:,}")
    read = ", ".join(f"{count:,} {rule}" for rule, count in metrics["read_by"].items())
    lines.append(f"  read in any form: {read}")
    lines.append(f"  {metrics['without_answer']:,} texts without a marked answer")
    if metrics["with_too_long_number"]:
        lines.append(f"  {metrics['with_too_long_number']:,} texts with a number of more than {LONGEST:,} characters")
    return "\n".join(lines)
