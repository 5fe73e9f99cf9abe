"""The instruction data sets that are known by name: where each is, and its prompt format. A new set is a new entry."""

from __future__ import annotations

from dataclasses import dataclass

from sharelora.data.commonsense import TASKS
from sharelora.data.find import SPLIT_NAMES, KnownDataset, unknown_name


@dataclass(frozen=True, kw_only=True)
class InstructionDataset(KnownDataset):
    """A data set of instructions.

    Args:
        format: its prompt format.
        where: (column, value) that a row must have, where the file has the column.
        subset: the rows to take of a local file with a column `subset`, unless --data_subset says otherwise.
        parts: names of local files without extension that together are train, if no single file has all of it.
    """

    format: str
    where: tuple[str, str] | None = None
    subset: str | None = None
    parts: tuple[str, ...] = ()
    instead: str = "pass --dataset /path/to/a/file"


def _files(name: str, **own: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The local files of a set by split: its own ones, and then `<name>/<split>`."""
    return {split: (*own.get(split, ()), *(f"{name}/{word}" for word in words)) for split, words in SPLIT_NAMES.items()}


_MATH_HUB = {"path": "xDAN2099/lighteval-MATH"}
# GSM8K and HumanEval are exams too, whose commands take a folder of data rather than a file.
_EXAM = "pass --dataset /path/to/a/file or --data_root /a/folder/of/data"

_DATASETS = (
    InstructionDataset(
        name="alpaca",
        format="alpaca",
        hub={"path": "tatsu-lab/alpaca"},
        files=_files("alpaca", train=("alpaca/alpaca_data", "alpaca/alpaca_subset_15k")),
        subset="random_9k",
    ),
    InstructionDataset(
        name="alpaca-clean",
        format="alpaca-clean",
        hub={"path": "yahma/alpaca-cleaned"},
        files=_files("alpaca-clean", train=("alpaca/alpaca_data_cleaned",)),
    ),
    InstructionDataset(
        name="chip2",
        format="chip2",
        hub={"path": "laion/OIG", "data_files": "unified_chip2.jsonl"},
        files=_files("chip2", train=("chip2/unified_chip2",)),
    ),
    # The repository's own main branch is a script, which `datasets` no longer runs; the hub converted it.
    InstructionDataset(
        name="self-instruct",
        format="self-instruct",
        hub={"path": "yizhongw/self_instruct", "name": "self_instruct", "revision": "refs/convert/parquet"},
        files=_files("self-instruct"),
    ),
    InstructionDataset(name="hh-rlhf", format="hh-rlhf", hub={"path": "Anthropic/hh-rlhf"}, files=_files("hh-rlhf")),
    InstructionDataset(name="longform", format="longform", hub={"path": "akoksal/LongForm"}, files=_files("longform")),
    InstructionDataset(
        name="oasst1", format="oasst1", hub={"path": "timdettmers/openassistant-guanaco"}, files=_files("oasst1")
    ),
    InstructionDataset(
        name="math",
        format="MATH",
        hub=_MATH_HUB,
        files=_files("math"),
    ),
    InstructionDataset(
        name="math_hard",
        format="MATH",
        hub=_MATH_HUB,
        files=_files("math_hard", train=("math/train",), test=("math/test",)),
        where=("level", "Level 5"),
    ),
    InstructionDataset(
        name="gsm8k",
        format="GSM8K",
        hub={"path": "openai/gsm8k", "name": "main"},
        files=_files("gsm8k"),
        instead=_EXAM,
    ),
    InstructionDataset(
        name="codealpaca",
        format="alpaca",
        hub={"path": "sahil2801/CodeAlpaca-20k"},
        files=_files("codealpaca", train=("codealpaca/code_alpaca_20k", "codealpaca/code_alpaca_2k")),
    ),
    InstructionDataset(
        name="hf_codealpaca",
        format="HF_CODE",
        hub={"path": "HuggingFaceH4/CodeAlpaca_20K"},
        files=_files(
            "hf_codealpaca",
            train=("codealpaca/code_alpaca_20k", "codealpaca/new_codealpaca", "codealpaca/code_alpaca_2k"),
        ),
    ),
    # The union of the training sets of the eight tasks of LLM-Adapters.
    InstructionDataset(
        name="commonsense",
        format="alpaca",
        hub={"path": "zwhe99/commonsense_170k"},
        files=_files("commonsense", train=("commonsense/commonsense_170k",)),
        parts=tuple(f"commonsense/{task}/train" for task in TASKS),
    ),
    InstructionDataset(
        name="humaneval",
        format="HE",
        hub={"path": "openai/openai_humaneval"},
        files=_files("humaneval", test=("humaneval/HumanEval",)),
        instead=_EXAM,
    ),
)
KNOWN: dict[str, InstructionDataset] = {dataset.name: dataset for dataset in _DATASETS}


def known(name: str) -> InstructionDataset:
    """Return a data set by its name.

    Raises:
        UserError: unknown name; the message suggests the closest one.
    """
    if name not in KNOWN:
        raise unknown_name(name, KNOWN, "data set", "or give the path of a local file", "a local file")
    return KNOWN[name]
