"""Which scripts there are, and that each is thin, runnable and says how it is used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LLAMA_1_2 = ("llama_7b", "llama_13b", "llama2_7b", "llama2_13b", "llama2_70b")
LLAMA_3 = ("llama3_8b", "llama3_70b")
LLAMA_LARGE = ("llama_30b", "llama_65b")
RUNS = [("alpaca", model) for model in LLAMA_1_2 + LLAMA_3 + LLAMA_LARGE]
RUNS += [(data, model) for data in ("code", "gsm8k") for model in LLAMA_3]
RUNS += [("commonsense", model) for model in LLAMA_1_2 + LLAMA_3]
LLAMA = sorted(f"finetune_{data}_{model}_{bits}.sh" for data, model in RUNS for bits in ("full", "4bit"))
ENCODERS = ("roberta_base", "roberta_large", "deberta_v2_xxlarge")
TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
GLUE = [f"{model}_{task}.sh" for model in ENCODERS for task in TASKS]
GLUE += [f"deberta_v2_xxlarge_mnli_{regularizer}.sh" for regularizer in ("rdrop", "cutoff")]
NLG = [f"gpt2_{size}_{data}.sh" for size in ("medium", "large") for data in ("e2e", "webnlg", "dart")]
CONTINUAL = ["continual_llama3_8b.sh"]
LLAVA = ["finetune_llava15_7b_full.sh"]
# Only what shares has groups of layers.
GROUPS = [
    f"finetune_commonsense_{model}_{groups}_{bits}.sh"
    for model in ("llama_7b", "llama2_7b", "llama3_8b")
    for groups in ("groups", "groups_auto")
    for bits in ("full", "4bit")
]
TRAINING = sorted(LLAMA + GLUE + NLG + CONTINUAL + LLAVA)
CHOICE = [
    f"{exam}_evaluate_{model}_{bits}.sh"
    for exam in ("MMLU", "MMLU_PRO", "Commonsense")
    for model in LLAMA_1_2 + LLAMA_3 + (LLAMA_LARGE if exam == "MMLU" else ())
    for bits in ("full", "4bit")
]
GENERATION = [
    f"{test}_{stage}_{model}_{bits}.sh"
    for test in ("GSM8K", "HumanEval")
    for stage in ("generate", "evaluate")
    for model in LLAMA_3
    for bits in ("full", "4bit")
]
EVALUATION = sorted(CHOICE + GENERATION)
PATHS = [
    f"{variant}/{name}" for variant in ("share", "lora") for name in TRAINING + [f"eval/{name}" for name in EVALUATION]
] + [f"share/{name}" for name in GROUPS]


@pytest.mark.parametrize("variant", ["share", "lora"])
def test_the_scripts_are_exactly_those_that_are_promised(scripts: Path, variant: str) -> None:
    groups = GROUPS if variant == "share" else []
    assert sorted(file.name for file in (scripts / variant).glob("*.sh")) == sorted(TRAINING + groups)
    assert sorted(file.name for file in (scripts / variant / "eval").glob("*.sh")) == EVALUATION
    assert (len(LLAMA), len(GLUE), len(NLG), len(CHOICE), len(GENERATION)) == (40, 26, 6, 46, 16)


@pytest.mark.parametrize("path", PATHS)
def test_a_script_says_how_it_is_used_and_holds_only_what_differs(scripts: Path, path: str) -> None:
    lines = (scripts / path).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert lines[2].startswith("# Usage: ") and f"bash scripts/{path} " in lines[2]
    assert lines[3] == "set -euo pipefail"
    assert len(lines) <= 12


@pytest.mark.parametrize("path", [*PATHS, "quickstart.sh", "test.sh", "audit.sh", "lowest.sh", "../.ci/run"])
def test_a_script_is_executable(scripts: Path, path: str) -> None:
    assert os.access(scripts / path, os.X_OK)


def test_what_is_sourced_says_so_and_is_not_executable(scripts: Path) -> None:
    sourced = sorted((scripts / "common").glob("*.sh"))
    assert [file.name for file in sourced] == ["environment.sh", "paths.sh", "run.sh", "venv.sh"]
    for file in sourced:
        assert "ourced" in file.read_text().split("\n\n")[0], file
        assert not os.access(file, os.X_OK), file


def test_no_script_holds_somebodys_folder_or_a_chosen_gpu(scripts: Path) -> None:
    for file in scripts.rglob("*.sh"):
        text = file.read_text()
        assert not any(word in text for word in ("/home/", "/media/", "/work/", "CUDA_VISIBLE_DEVICES", "conda")), file
