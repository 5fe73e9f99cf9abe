"""The data sets that are known by name: where they are on the hub, in a local folder, and how they are read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sharelora.data.commonsense import TASKS
from sharelora.support.errors import UserError

DATA_FOLDER = "SHARELORA_DATA"
# What a split may be called on the hub and in file names.
SPLIT_NAMES = {"train": ("train",), "eval": ("eval", "validation", "valid", "dev", "val"), "test": ("test",)}


@dataclass(frozen=True)
class KnownData:
    """One data set.

    Args:
        format: its prompt format.
        hub: its name on the hub, the arguments of `datasets.load_dataset`.
        local: split -> names of local files without extension, tried in this order, besides `<name>/<split>`.
        where: (column, value) that a row must have, where the file has the column.
        subset: the rows to take of a local file with a column `subset`, unless --data_subset says otherwise.
        parts: names of local files without extension that together are train, where there is no file of all of it.
    """

    format: str
    hub: Mapping[str, Any]
    local: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    where: tuple[str, str] | None = None
    subset: str | None = None
    parts: tuple[str, ...] = ()


_MATH_HUB = {"path": "xDAN2099/lighteval-MATH"}
_MATH_FILES = {"train": ("math/train",), "test": ("math/test",)}

KNOWN: dict[str, KnownData] = {
    "alpaca": KnownData(
        "alpaca",
        {"path": "tatsu-lab/alpaca"},
        {"train": ("alpaca/alpaca_data", "alpaca/alpaca_subset_15k")},
        subset="random_9k",
    ),
    "alpaca-clean": KnownData(
        "alpaca-clean", {"path": "yahma/alpaca-cleaned"}, {"train": ("alpaca/alpaca_data_cleaned",)}
    ),
    "chip2": KnownData(
        "chip2", {"path": "laion/OIG", "data_files": "unified_chip2.jsonl"}, {"train": ("chip2/unified_chip2",)}
    ),
    # The repository's own main branch is a script, which `datasets` no longer runs; the hub converted it.
    "self-instruct": KnownData(
        "self-instruct",
        {"path": "yizhongw/self_instruct", "name": "self_instruct", "revision": "refs/convert/parquet"},
    ),
    "hh-rlhf": KnownData("hh-rlhf", {"path": "Anthropic/hh-rlhf"}),
    "longform": KnownData("longform", {"path": "akoksal/LongForm"}),
    "oasst1": KnownData("oasst1", {"path": "timdettmers/openassistant-guanaco"}),
    "math": KnownData("MATH", _MATH_HUB, _MATH_FILES),
    "math_hard": KnownData("MATH", _MATH_HUB, _MATH_FILES, where=("level", "Level 5")),
    "gsm8k": KnownData("GSM8K", {"path": "openai/gsm8k", "name": "main"}),
    "codealpaca": KnownData(
        "alpaca",
        {"path": "sahil2801/CodeAlpaca-20k"},
        {"train": ("codealpaca/code_alpaca_20k", "codealpaca/code_alpaca_2k")},
    ),
    "hf_codealpaca": KnownData(
        "HF_CODE",
        {"path": "HuggingFaceH4/CodeAlpaca_20K"},
        {"train": ("codealpaca/code_alpaca_20k", "codealpaca/new_codealpaca", "codealpaca/code_alpaca_2k")},
    ),
    # The union of the training sets of the eight tasks of LLM-Adapters.
    "commonsense": KnownData(
        "alpaca",
        {"path": "zwhe99/commonsense_170k"},
        {"train": ("commonsense/commonsense_170k",)},
        parts=tuple(f"commonsense/{task}/train" for task in TASKS),
    ),
    "humaneval": KnownData("HE", {"path": "openai/openai_humaneval"}, {"test": ("humaneval/HumanEval",)}),
}


def known(name: str) -> KnownData:
    """Return a data set by its name.

    Raises:
        UserError: there is none of that name; the nearest one is named.
    """
    if name in KNOWN:
        return KNOWN[name]
    near = difflib.get_close_matches(name.lower(), KNOWN, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else "or give the path of a local file"
    raise UserError(f"found unknown data set {name}; need one of {', '.join(KNOWN)}, or a local file; {advice}")
