"""Scores of multiple choice tests: accuracy with its standard error, over questions, subjects and categories."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """How many questions of a set were answered right."""

    right: int
    count: int

    @property
    def mean(self) -> float:
        """The share of right answers, 0 to 1."""
        return self.right / self.count

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean, from the sample variance; None for a single question."""
        return math.sqrt(self.mean * (1 - self.mean) / (self.count - 1)) if self.count > 1 else None


def accuracy(right: Sequence[bool]) -> Accuracy:
    """Count the right answers.

    Raises:
        ValueError: no answers.
    """
    if not right:
        raise ValueError("no answers to score")
    return Accuracy(sum(right), len(right))


def by_group(right: Sequence[bool], groups: Sequence[str]) -> dict[str, Accuracy]:
    """The accuracy of each group of questions, in the order in which groups first appear."""
    answers: dict[str, list[bool]] = {}
    for value, group in zip(right, groups, strict=True):
        answers.setdefault(group, []).append(value)
    return {group: accuracy(values) for group, values in answers.items()}


def micro(scores: Mapping[str, Accuracy]) -> Accuracy:
    """Each question counts the same: what the MMLU paper and lm-eval call the average."""
    return Accuracy(sum(score.right for score in scores.values()), sum(score.count for score in scores.values()))


def macro(scores: Mapping[str, Accuracy]) -> float:
    """Each group counts the same, however many questions it has: what QLoRA reports for MMLU."""
    return math.fsum(score.mean for score in scores.values()) / len(scores)


def macro_standard_error(scores: Mapping[str, Accuracy]) -> float | None:
    """The standard error of `macro`, the groups being independent; None if one of them has a single question."""
    errors = [score.standard_error for score in scores.values()]
    if any(error is None for error in errors):
        return None
    return math.sqrt(math.fsum(error**2 for error in errors if error is not None)) / len(errors)


def by_category(scores: Mapping[str, Accuracy], category: Callable[[str], str]) -> dict[str, Accuracy]:
    """The accuracy over all questions of each category of groups.

    Args:
        scores: group -> accuracy.
        category: group -> its category.
    """
    members: dict[str, dict[str, Accuracy]] = {}
    for group, score in scores.items():
        members.setdefault(category(group), {})[group] = score
    return {name: micro(groups) for name, groups in members.items()}


def table(scores: Mapping[str, Accuracy]) -> dict[str, dict[str, float | int | None]]:
    """Accuracies as JSON data, in the order of their names."""
    return {
        name: {"accuracy": score.mean, "stderr": score.standard_error, "right": score.right, "count": score.count}
        for name, score in sorted(scores.items())
    }


def chance(choices: Sequence[int]) -> float:
    """The accuracy of guessing.

    Args:
        choices: the number of options of each question.
    """
    return math.fsum(1 / count for count in choices) / len(choices)
