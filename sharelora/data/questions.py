"""Multiple choice questions with lettered options, and the published prompts for them.

A prompt is a prefix, the same for every question of a subject, and an item; engines encode the prefix once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from sharelora.support.errors import UserError
from sharelora.support.text import nearest

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Question:
    """One multiple choice question.

    Args:
        subject: as in the files, e.g. `abstract_algebra`.
        question: the text as published, spaces included.
        choices: the options in order.
        answer: the letter of the right one.
        id: its name in the source; empty where it has none.
    """

    subject: str
    question: str
    choices: tuple[str, ...]
    answer: str
    id: str = ""


@dataclass(frozen=True)
class Prompt:
    """How questions are written down.

    Args:
        header: the first line, with `{}` for the subject in plain words.
        strip: whether spaces around a question are removed.
    """

    header: str
    strip: bool = False

    def prefix(self, subject: str, examples: Sequence[Question] = ()) -> str:
        """The text before every question of a subject: the header and the solved examples."""
        solved = (f"{self.item(example)} {example.answer}\n\n" for example in examples)
        return self.header.format(subject.replace("_", " ")) + "\n\n" + "".join(solved)

    def item(self, question: Question) -> str:
        """The text of one question up to `Answer:`, without a space after it: the answer's token brings its own."""
        text = question.question.strip() if self.strip else question.question
        options = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
        return "\n".join((text, *options, "Answer:"))


_DOUBLE = "The following are multiple choice questions (with answers) about  {}."
PROMPTS: dict[str, Prompt] = {
    # Both write two spaces: QLoRA's files (data/mmlu) were made by the original evaluate.py of hendrycks/test, whose
    # `format_subject` begins with a space.
    "qlora": Prompt(_DOUBLE),
    "original": Prompt(_DOUBLE),
    "lm_eval": Prompt(_DOUBLE.replace("  ", " "), strip=True),
}


def examples_for(solved: Sequence[Question], subject: str, shots: int) -> list[Question]:
    """The first `shots` questions of a subject, the solved examples of its prompts.

    Args:
        solved: the questions of the split that examples are taken from.
        subject: the subject of the prompts.
        shots: how many are wanted.

    Raises:
        UserError: there are fewer.
    """
    examples = list(islice((question for question in solved if question.subject == subject), shots))
    if len(examples) < shots:
        raise UserError(
            f"found {len(examples)} solved examples of {subject}; need {shots} for {shots}-shot prompts; pass --shots 0"
        )
    return examples


def of_subjects(questions: Sequence[Question], names: Sequence[str] | None) -> list[Question]:
    """The questions of some subjects, in their order.

    Args:
        questions: all.
        names: subjects; None takes all.

    Raises:
        UserError: a subject without questions; the message suggests the closest one.
    """
    if names is None:
        return list(questions)
    known = sorted({question.subject for question in questions})
    for name in names:
        if name not in known:
            near = nearest(name, known)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"found subject {name!r}; need one of the {len(known)} that have questions; {advice}")
    return [question for question in questions if question.subject in names]


def options(value: object) -> tuple[str, ...]:
    """Read the options of a question.

    Raises:
        ValueError: they are not 2 to 10 texts.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not 2 <= len(value) <= len(LETTERS):
        raise ValueError(f"choices are {value!r}, not a list of 2 to {len(LETTERS)} options")
    return texts(*value)


def texts(*values: object) -> tuple[str, ...]:
    """Return values that must be text.

    Raises:
        ValueError: one is not.
    """
    if not all(isinstance(value, str) for value in values):
        raise ValueError("subject, question and choices must be text")
    return tuple(map(str, values))


def letter(answer: object, choices: int) -> str:
    """Turn an answer, a letter or the index of a choice, into a letter.

    Raises:
        ValueError: the question has no such choice.
    """
    allowed = LETTERS[:choices]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < choices:
        return allowed[answer]
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip() in allowed:
        return answer.strip()
    raise ValueError(f"answer is {answer!r}, not one of {allowed[0]} to {allowed[-1]}")
