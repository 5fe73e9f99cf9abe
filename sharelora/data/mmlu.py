"""MMLU: its questions and its four categories.

Three forms of its files are read: rows with choices, and QLoRA's of whole prompts, with and without solved examples.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from sharelora.data.find import KnownDataset, find_split
from sharelora.data.questions import Question, letter, options, texts
from sharelora.data.rows import Row, parse_rows
from sharelora.support.errors import UserError

MMLU = KnownDataset(
    name="MMLU",
    hub={"path": "cais/mmlu", "name": "all"},
    # QLoRA has no dev split: the solved examples of its five-shot prompts are that.
    files={
        "dev": ("mmlu/dev", "mmlu/five_shot_mmlu_val", "mmlu/five_shot_mmlu_test"),
        "val": ("mmlu/val", "mmlu/validation", "mmlu/zero_shot_mmlu_val", "mmlu/five_shot_mmlu_val"),
        "test": ("mmlu/test", "mmlu/zero_shot_mmlu_test", "mmlu/five_shot_mmlu_test"),
    },
    hub_splits={"dev": ("dev",), "val": ("validation",), "test": ("test",)},
    one_split=True,  # the hub's set also has a training split of 100,000 questions
)

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


def load_mmlu(split: str, root: str | Path | None = None) -> list[Question]:
    """Load one split of MMLU.

    Args:
        split: `dev`, `val` or `test`.
        root: folder of local data with `mmlu/{dev,val,test}.jsonl`, or QLoRA's `mmlu/{zero,five}_shot_mmlu_*.json`;
            None takes the environment variable SHARELORA_DATA. Where there is neither, the hub's `cais/mmlu` is used.

    Raises:
        UserError: an unknown split, no data, an empty file, or a malformed question (file and row are named).
    """
    if split not in MMLU.files:
        raise UserError(f"found MMLU split {split}; need one of {', '.join(MMLU.files)}; change --split")
    source = find_split(MMLU, split, root)
    rows = source.rows()
    if split == "dev" and rows and _is_prompt(rows[0]):
        solved = parse_rows(rows, source.origin, _solved, "QLoRA's columns subject, input and output")
        return list(dict.fromkeys(itertools.chain.from_iterable(solved)))
    needed = "subject, question, choices and answer (a letter or an index)"
    return parse_rows(rows, source.origin, _question, needed)


def _is_prompt(row: Row) -> bool:
    """Whether a row is a whole prompt, as QLoRA's files have them."""
    return "question" not in row and "input" in row


def _question(row: Row) -> Question:
    if _is_prompt(row):
        subject, prompt = texts(row["subject"], row["input"])
        return _from_text(subject, _SOLVED.split(_body(prompt))[-1], row["output"])
    choices = options(row["choices"])
    subject, question = texts(row["subject"], row["question"])
    return Question(subject, question, choices, letter(row["answer"], len(choices)))


_SOLVED = re.compile(r"\nAnswer: ([A-D])\n\n")


def _from_text(subject: str, text: str, answer: object) -> Question:
    choices: list[str] = []
    # From the end: a question may itself contain lines that look like options.
    for name in "DCBA":
        text, mark, choice = text.rpartition(f"\n{name}. ")
        if not mark:
            raise ValueError("the prompt does not end with the options A to D and 'Answer:'")
        choices.insert(0, choice)
    return Question(subject, text, tuple(choices), letter(answer, 4))


def _body(prompt: str) -> str:
    """A whole prompt without its header and its final `Answer:`."""
    return prompt.partition("\n\n")[2].removesuffix("\nAnswer:")


def _solved(row: Row) -> list[Question]:
    """The solved examples of a whole prompt."""
    subject, prompt = texts(row["subject"], row["input"])
    parts = _SOLVED.split(_body(prompt))
    return [_from_text(subject, text, answer) for text, answer in zip(parts[0::2], parts[1::2], strict=False)]
