"""MMLU: its questions from local files or the hub, and its four categories."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from sharelora.data.hub import load_from_hub
from sharelora.data.questions import Question, letter, options, parse, texts
from sharelora.data.readers import Row, find_file, read_rows
from sharelora.support.errors import UserError

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
    file = find_file(Path(folder), [f"mmlu/{name}" for name in SPLITS[split]])
    if file is not None:
        return _parse(read_rows(file), str(file))
    return _from_qlora(Path(folder), split)


def _from_qlora(folder: Path, split: str) -> list[Question]:
    """Read QLoRA's files of whole prompts; the dev split is the solved examples of the five-shot ones."""
    asked = ("val", "test") if split == "dev" else (split,)
    shots = ("five",) if split == "dev" else ("zero", "five")
    file = find_file(folder, [f"mmlu/{shot}_shot_mmlu_{name}" for name in asked for shot in shots])
    if file is None:
        raise UserError(
            f"no MMLU {split} split in {folder}; need mmlu/{split}.jsonl there (or .jsonl.gz); "
            "check SHARELORA_DATA or --data_root, or unset both to load it from the hub"
        )
    if split == "dev":
        found = parse(read_rows(file), str(file), _solved, "QLoRA's columns subject, input and output")
        return list(dict.fromkeys(itertools.chain.from_iterable(found)))
    return _parse(read_rows(file), str(file))


def _hub_rows(split: str) -> list[Row]:
    ways = "set SHARELORA_DATA=/a/folder/with/mmlu or add --tiny"
    return load_from_hub({"path": HUB, "name": "all", "split": SPLITS[split][-1]}, "MMLU", ways).to_list()


def _parse(rows: Sequence[Row], origin: str) -> list[Question]:
    return parse(rows, origin, _question, "subject, question, choices and answer (a letter or an index)")


def _question(row: Row) -> Question:
    if "question" not in row and "input" in row:
        return _last_question(row["subject"], row["input"], row["output"])
    choices = options(row["choices"])
    subject, question = texts(row["subject"], row["question"])
    return Question(subject, question, choices, letter(row["answer"], len(choices)))


_SOLVED = re.compile(r"\nAnswer: ([A-D])\n\n")
# Greedy up to the last set of options: a question may itself contain lines that look like one.
_OPTIONS = re.compile(r"(.*)\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)", re.DOTALL)


def _from_text(subject: str, text: str, answer: object) -> Question:
    match = _OPTIONS.fullmatch(text)
    if match is None:
        raise ValueError("the prompt does not end with the options A to D and 'Answer:'")
    question, *choices = match.groups()
    return Question(subject, question, tuple(choices), letter(answer, 4))


def _body(prompt: str) -> str:
    """A whole prompt without its header and its final `Answer:`."""
    return prompt.partition("\n\n")[2].removesuffix("\nAnswer:")


def _last_question(subject: str, prompt: str, answer: object) -> Question:
    return _from_text(subject, _SOLVED.split(_body(prompt))[-1], answer)


def _solved(row: Row) -> list[Question]:
    """The solved examples of a whole prompt."""
    parts = _SOLVED.split(_body(row["input"]))
    return [_from_text(row["subject"], text, answer) for text, answer in zip(parts[0::2], parts[1::2], strict=False)]
