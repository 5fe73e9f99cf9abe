"""MMLU: questions from local files or the hub, three published prompts, and the four categories.

A prompt is a prefix, the same for every question of a subject, and an item; engines encode the prefix once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sharelora.data.readers import EXTENSIONS, Row, read_rows
from sharelora.errors import UserError
from sharelora.hub import hub_reachable

LETTERS = "ABCDEFGHIJ"
HUB = "cais/mmlu"
# Our name of a split -> what it may be called in file names, and on the hub (the last one).
SPLITS = {"dev": ("dev",), "val": ("val", "validation"), "test": ("test",)}

# The grouping of Hendrycks et al. 2021 (lm-eval counts anatomy as STEM).
CATEGORIES: dict[str, tuple[str, ...]] = {
    "STEM": tuple(
        "abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics "
        "college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics "
        "high_school_biology high_school_chemistry high_school_computer_science high_school_mathematics "
        "high_school_physics high_school_statistics machine_learning".split()
    ),
    "humanities": tuple(
        "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law "
        "jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law "
        "world_religions".split()
    ),
    "social sciences": tuple(
        "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics "
        "high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations "
        "security_studies sociology us_foreign_policy".split()
    ),
    "other": tuple(
        "anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
        "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology".split()
    ),
}
UNLISTED = "unlisted"
_CATEGORY = {subject: category for category, subjects in CATEGORIES.items() for subject in subjects}


def category(subject: str) -> str:
    """The category of a subject; `unlisted` for a subject that is not one of the 57."""
    return _CATEGORY.get(subject, UNLISTED)


@dataclass(frozen=True)
class Question:
    """One multiple choice question.

    Args:
        subject: as in the files, e.g. `abstract_algebra`.
        question: the text as published, spaces included.
        choices: the options in order.
        answer: the letter of the right one.
    """

    subject: str
    question: str
    choices: tuple[str, ...]
    answer: str


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


def examples_for(dev: Sequence[Question], subject: str, shots: int) -> list[Question]:
    """The first `shots` questions of a subject in the dev split, the solved examples of its prompts.

    Raises:
        UserError: the dev split has fewer.
    """
    found = list(islice((question for question in dev if question.subject == subject), shots))
    if len(found) < shots:
        raise UserError(
            f"found {len(found)} dev questions of {subject}; need {shots} for {shots}-shot prompts; pass --shots 0"
        )
    return found


def load_mmlu(split: str, root: str | Path | None = None) -> list[Question]:
    """Load one split of MMLU.

    Args:
        split: `dev`, `val` or `test`.
        root: folder of local data with `mmlu/{dev,val,test}.jsonl`, or QLoRA's `mmlu/{zero,five}_shot_mmlu_*.json`;
            None takes the environment variable SHARELORA_DATA. Where there is neither, the hub's `cais/mmlu` is used.

    Raises:
        UserError: an unknown split, no data, an empty file, or a malformed question (file and row are named).
    """
    if split not in SPLITS:
        raise UserError(f"found MMLU split {split}; need one of {', '.join(SPLITS)}; change --split")
    folder = root or os.environ.get("SHARELORA_DATA")
    if folder is None:
        return _parse(_hub_rows(split), f"{HUB} {split}")
    file = _find(Path(folder), [f"mmlu/{name}" for name in SPLITS[split]])
    if file is not None:
        return _parse(read_rows(file), str(file))
    return _from_qlora(Path(folder), split)


def _find(folder: Path, names: Sequence[str]) -> Path | None:
    files = (folder / (name + ending) for name in names for ending in EXTENSIONS)
    return next((file for file in files if file.is_file()), None)


def _from_qlora(folder: Path, split: str) -> list[Question]:
    """Read QLoRA's files of whole prompts; the dev split is the solved examples of the five-shot ones."""
    asked = ("val", "test") if split == "dev" else (split,)
    shots = ("five",) if split == "dev" else ("zero", "five")
    file = _find(folder, [f"mmlu/{shot}_shot_mmlu_{name}" for name in asked for shot in shots])
    if file is None:
        raise UserError(
            f"no MMLU {split} split in {folder}; need mmlu/{split}.jsonl there (or .jsonl.gz); "
            "check SHARELORA_DATA or --data_root, or unset both to load it from the hub"
        )
    if split == "dev":
        return list(dict.fromkeys(_solved(read_rows(file), str(file))))
    return _parse(read_rows(file), str(file))


def _hub_rows(split: str) -> list[Row]:
    ways = "set SHARELORA_DATA=/a/folder/with/mmlu or add --tiny"
    import datasets

    # The folder in which `datasets` keeps what it has loaded before.
    cached = Path(datasets.config.HF_DATASETS_CACHE) / HUB.replace("/", "___")
    if not cached.is_dir() and not hub_reachable():
        raise UserError(f"MMLU not found: SHARELORA_DATA is not set and the hub cannot be reached; {ways}")
    try:
        return datasets.load_dataset(HUB, "all", split=SPLITS[split][-1]).to_list()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"MMLU ({HUB}) cannot be loaded: {reason}; {ways}") from error


def _parse(rows: Sequence[Row], origin: str) -> list[Question]:
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(_question(row))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{origin}, row {number}: {reason}; need subject, question, choices and answer (a letter or an index)"
            ) from error
    if not found:
        raise UserError(f"{origin} is empty; need at least one question; check the file")
    return found


def _question(row: Row) -> Question:
    if "question" not in row and "input" in row:
        return _last_question(row["subject"], row["input"], row["output"])
    choices = row["choices"]
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"choices are {choices!r}, not a list of 2 to {len(LETTERS)} options")
    texts = (row["subject"], row["question"], *choices)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("subject, question and choices must be text")
    return Question(row["subject"], row["question"], tuple(choices), _letter(row["answer"], len(choices)))


def _letter(answer: object, choices: int) -> str:
    """Turn an answer, a letter or the index of a choice, into a letter."""
    allowed = LETTERS[:choices]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < choices:
        return allowed[answer]
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip() in allowed:
        return answer.strip()
    raise ValueError(f"answer is {answer!r}, not one of {allowed[0]} to {allowed[-1]}")


_SOLVED = re.compile(r"\nAnswer: ([A-D])\n\n")
# Greedy up to the last set of options: a question may itself contain lines that look like one.
_OPTIONS = re.compile(r"(.*)\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)", re.DOTALL)


def _from_text(subject: str, text: str, answer: object) -> Question:
    match = _OPTIONS.fullmatch(text)
    if match is None:
        raise ValueError("the prompt does not end with the options A to D and 'Answer:'")
    question, *choices = match.groups()
    return Question(subject, question, tuple(choices), _letter(answer, 4))


def _body(prompt: str) -> str:
    """A whole prompt without its header and its final `Answer:`."""
    return prompt.partition("\n\n")[2].removesuffix("\nAnswer:")


def _last_question(subject: str, prompt: str, answer: object) -> Question:
    return _from_text(subject, _SOLVED.split(_body(prompt))[-1], answer)


def _solved(rows: Sequence[Row], origin: str) -> Iterator[Question]:
    for number, row in enumerate(rows, 1):
        try:
            parts = _SOLVED.split(_body(row["input"]))
            for text, answer in zip(parts[0::2], parts[1::2], strict=False):
                yield _from_text(row["subject"], text, answer)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{origin}, row {number}: {error}; need QLoRA's columns subject, input, output") from error
