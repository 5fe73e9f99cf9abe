"""A command that is refused, or only checks, leaves every folder as it was: the working one, home and caches."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from inputs import FAULTS, write

from sharelora.cli.commands import main
from sharelora.support.errors import run_main

TRAIN = (
    "--bits 32 --use_cpu --max_steps 2 --lora_r 2 --per_device_train_batch_size 2 --gradient_checkpointing false"
    " --optim adamw_torch"
)
INSTRUCTIONS = f"{TRAIN} --gradient_accumulation_steps 1 --eval_dataset_size 4 --max_eval_samples 4"
EXAM = "--limit 4 --bits 32 --model {0}/llama --data_root {0}/data --output new/deep/out"
GENERATION = f"{EXAM} --max_new_tokens 4"
OF_ADAPTERS = ("missing data", "bad rows", "added tokens")
OF_SHAPES = (*OF_ADAPTERS, "damaged weights")
OF_RESULTS = ("missing models", "added tokens", "damaged weights")
# Command line, with {0} for the folder of inputs; and the faults that it does not meet: it reads nothing of the kind.
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "qlora_share": (
        f"qlora_share/qlora_share.py --model_name_or_path {{0}}/llama --dataset {{0}}/alpaca.jsonl --output_dir"
        f" new/deep/out {INSTRUCTIONS}",
        (),
    ),
    "llava_share": (
        f"qlora_share/llava_share.py --model_name_or_path {{0}}/llava --data_path {{0}}/vision/llava/train.json"
        f" --eval_dataset_size 4 --max_train_samples 8 --output_dir new/deep/out {TRAIN}"
        " --gradient_accumulation_steps 1",
        (),
    ),
    "run_glue_share": (
        "NLU/run_glue_share.py --model_name_or_path {0}/roberta --task_name rte --output_dir new/deep/out --do_train"
        " --use_cpu --num_train_epochs 1",
        (),
    ),
    "gpt2_share_ft": (
        "NLG/gpt2_share_ft.py --init_checkpoint {0}/gpt2 --train_data {0}/nlg.txt --valid_data {0}/nlg.txt"
        " --work_dir new/deep/out --train_batch_size 2 --grad_acc 1 --seq_len 64 --max_step 2 --use_cpu",
        (),
    ),
    "gpt2_beam": (
        "NLG/gpt2_beam.py --model_name_or_path {0}/gpt2 --adapter none --data {0}/nlg.txt --seq_len 128 --eval_len 8"
        " --beam 2 --work_dir new/deep/out",
        ("bad rows",),  # a row without a text is an input
    ),
    "mmlu": (f"eval/mmlu.py {EXAM}", ()),
    "mmlu_pro": (f"eval/mmlu_pro.py {EXAM}", ()),
    "commonsense": (f"eval/commonsense.py {GENERATION} --tasks piqa", ()),
    "gsm8k": (f"eval/gsm8k.py {GENERATION} --shots 0", ()),
    "humaneval": (f"eval/humaneval.py {GENERATION} --generate_only", ()),
    "llava_bench": (
        "eval/llava_bench.py --limit 2 --bits 32 --model {0}/llava --bench {0}/vision/llava_bench --max_new_tokens 4"
        " --output new/deep/out",
        (),
    ),
    "continual": (
        f"eval/continual.py --model {{0}}/llama --tasks alpaca gsm8k --share a --output new/deep/out {INSTRUCTIONS}",
        (),
    ),
    "similarity": (
        "sharelora similarity --model {0}/llama --sample {0}/texts.txt --limit 8 --bits 32 --output new/deep/out",
        (),
    ),
    "plan": ("sharelora plan --model {0}/llama --share a", OF_SHAPES),
    "estimate": ("sharelora estimate --model {0}/llama --share a", OF_SHAPES),
    "export": ("sharelora export {0}/adapter new/deep/out", OF_ADAPTERS),
    "merge": ("sharelora merge {0}/llama {0}/adapter new/deep/out", OF_ADAPTERS),
    "import": ("sharelora import {0}/lora new/deep/out --share a", OF_ADAPTERS),
    "compress": ("sharelora compress {0}/lora new/deep/out --share a", OF_ADAPTERS),
    "inspect": ("sharelora inspect {0}/adapter", OF_ADAPTERS),
    "figures": ("sharelora figures adapters {0}/adapter --out new/deep/out", OF_ADAPTERS),
    "compare": ("sharelora compare {0}/run", OF_RESULTS),
    "groups": ("sharelora groups {0}/similarity.json --similarity_threshold 0.5 --draw", OF_RESULTS),
    "ablate": ("sharelora ablate {0}/grid.yaml --output new/deep/out", ("added tokens", "damaged weights")),
}
# What a refusal is about, in its own words.
SAID = {
    "unknown flag": "unknown flag --no_such_flag",
    "missing models": "not found|no model",
    "missing data": "not found|no data set|cannot read|found no piqa|no such path",
    "bad rows": "row|not UTF-8|not valid JSON|cannot read the grid",
    "added tokens": "have tokens without an embedding",
    "damaged weights": "cannot be loaded|cannot be read|truncated or altered|it was truncated",
}
WITHOUT_DRY_RUN = (
    "plan",
    "estimate",
    "export",
    "merge",
    "import",
    "compress",
    "inspect",
    "figures",
    "compare",
    "groups",
    "ablate",
)
TRAININGS = ("qlora_share", "llava_share", "run_glue_share", "gpt2_share_ft")
ROOT = Path(__file__).resolve().parent.parent.parent
CACHES = ("HOME", "SHARELORA_CACHE", "HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "TMPDIR")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that commands read, in `right`, and a copy for each fault."""
    folder = tmp_path_factory.mktemp("inputs")
    write(folder / "right")
    for name, damage in FAULTS.items():
        shutil.copytree(folder / "right", folder / name)
        damage(folder / name)
    for grid in folder.glob("*/grid.yaml"):
        grid.write_text(grid.read_text().replace("{0}", str(grid.parent)))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with home and all caches in it."""
    for name in CACHES:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "TMPDIR"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(*folders: Path) -> list[str]:
    return sorted(f"{path}{'/' if path.is_dir() else ''}" for folder in folders for path in folder.rglob("*"))


def words(name: str, folder: Path, *more: str) -> list[str]:
    return [*(word.replace("{0}", str(folder)) for word in COMMANDS[name][0].split()), *more]


def ended(monkeypatch: pytest.MonkeyPatch, command: list[str], folder: Path) -> int:
    """Run a command in this process; return its exit code."""
    monkeypatch.setenv("SHARELORA_DATA", str(folder / "data"))
    script, *rest = command
    monkeypatch.setattr(sys, "argv", [script, *rest])
    with pytest.raises(SystemExit) as end:
        if script == "sharelora":
            run_main(lambda: main(rest))
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return int(end.value.code or 0)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT_DRY_RUN])
def test_a_dry_run_writes_nothing(
    inputs: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = listing(place, inputs)
    assert ended(monkeypatch, words(name, inputs / "right", "--dry_run"), inputs / "right") == 0, capsys.readouterr()
    assert listing(place, inputs) == before


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (name, fault)
        for name, (_, unmet) in COMMANDS.items()
        for fault in ("unknown flag", *FAULTS)
        if fault not in unmet
    ],
)
def test_a_refused_command_leaves_nothing(
    inputs: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    fault: str,
) -> None:
    flags = ["--no_such_flag", "1"] if fault == "unknown flag" else []
    folder = inputs / (fault if fault in FAULTS else "right")
    before = listing(place, inputs)
    code = ended(monkeypatch, words(name, folder, *flags), folder)
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and re.search(SAID[fault], error), error
    assert listing(place, inputs) == before


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_that_does_not_fit_leaves_nothing(
    inputs: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr("sharelora.memory.estimator.RUNTIME", {"cpu": 10**15, "cuda": 10**15})
    before = listing(place, inputs)
    assert ended(monkeypatch, words(name, inputs / "right"), inputs / "right") == 2
    assert "does NOT fit" in capsys.readouterr().err
    assert listing(place, inputs) == before


@pytest.mark.parametrize("name", ["qlora_share", "mmlu"])
def test_what_was_there_before_stays(
    inputs: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (place / "new" / "deep" / "out").mkdir(parents=True)
    (place / "new" / "notes.txt").write_text("mine")
    before = listing(place)
    assert ended(monkeypatch, words(name, inputs / "damaged weights"), inputs / "damaged weights") == 2
    assert listing(place) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qlora_share", "mmlu", "figures"])
def test_a_process_of_its_own_writes_no_cache(inputs: Path, place: Path, name: str) -> None:
    command = words(name, inputs / "missing models")
    start = ["-m", "sharelora"] if command[0] == "sharelora" else [str(ROOT / command[0])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SHARELORA_DATA": str(inputs / "right" / "data")}
    before = listing(place)
    done = subprocess.run(
        [sys.executable, *start, *command[1:]], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert listing(place) == before
