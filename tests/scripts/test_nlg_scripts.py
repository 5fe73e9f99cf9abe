"""The scripts of GPT-2: three stages, each with flags that its entry point takes and the numbers of their sources."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from script_commands import SCRIPTS, Command, environment, flags_of, value

from sharelora.evaluation import nlg_score
from sharelora.evaluation.beam import arguments as beam
from sharelora.training.nlg.job import NlgArguments, parse

NAMES = sorted(str(file.relative_to(SCRIPTS)) for file in SCRIPTS.glob("[sl]*/gpt2_*.sh"))
E2E = "share/gpt2_medium_e2e.sh"
ENTRY = {"train": "gpt2_share_ft.py", "decode": "gpt2_beam.py", "score": "score.py"}


def stages(words: list[str]) -> dict[str, list[str]]:
    """The words of each stage after its entry point; an empty line stands between stages."""
    flags: dict[str, list[str]] = {}
    for line in "\n".join(words).strip("\n").split("\n\n"):
        command = line.split("\n")
        (name,) = [name for name, file in ENTRY.items() if any(word.endswith(f"NLG/{file}") for word in command)]
        flags[name] = flags_of(command, f"NLG/{ENTRY[name]}")
    return flags


def parsed(words: list[str]) -> tuple[NlgArguments, argparse.Namespace, argparse.Namespace]:
    flags = stages(words)
    return parse(flags["train"]), beam.parse(flags["decode"]), nlg_score.parse(flags["score"])


@pytest.mark.parametrize("tiny", [[], ["--tiny"]], ids=["real", "tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_every_entry_point_takes_its_flags_without_a_notice(command: Command, name: str, tiny: list[str]) -> None:
    train, decode, score = parsed(command(name, *tiny))
    assert (train.notices, decode.notices) == ((), [])
    assert train.run.tiny is decode.tiny is score.tiny is bool(tiny)
    assert train.values["share"] == ("a" if name.startswith("share/") else "none")
    data = name.removesuffix(".sh").rpartition("_")[2]
    assert train.nlg.train_data == decode.data == score.data == score.task == data
    assert decode.split == score.split == "test"
    assert len(NAMES) == 12


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("share/")])
def test_a_run_is_what_its_sources_say(command: Command, name: str) -> None:
    train, decode, score = parsed(command(name))
    settings, flags = train.train, train.values
    assert (flags["lora_r"], flags["lora_alpha"]) == (4, 32)
    assert (flags["lora_modules"], flags["enable_lora"]) == ("c_attn", "c_attn=1,0,1")
    assert (settings["per_device_train_batch_size"], settings["num_train_epochs"], train.nlg.seq_len) == (8, 5, 512)
    assert (settings["learning_rate"], settings["warmup_steps"], train.nlg.scheduler) == (2e-4, 500, "linear")
    assert (settings["adam_beta1"], settings["adam_beta2"], settings["adam_epsilon"]) == (0.9, 0.999, 1e-6)
    assert (settings["max_grad_norm"], settings["seed"], train.nlg.correct_bias) == (0, 110, True)
    regularised = "dart" not in name
    regularisation = (settings["weight_decay"], flags["lora_dropout"], settings["label_smoothing_factor"])
    assert regularisation == ((0.01, 0.1, 0.1) if regularised else (0, 0, 0))
    assert (decode.beam, decode.length_penalty, decode.no_repeat_ngram_size) == (10, 0.8, 4)
    assert (decode.repetition_penalty, decode.eval_len, decode.seq_len, decode.min_length) == (1.0, 64, 512, 0)
    assert decode.eos_token_id is None
    assert score.python is name.endswith("e2e.sh") and score.without == []
    size = "medium" if "medium" in name else "large"
    assert train.model.model_name_or_path == f"openai-community/gpt2-{size}"


@pytest.mark.parametrize("tiny", [[], ["--tiny"]], ids=["real", "tiny"])
def test_each_stage_looks_where_the_one_before_it_wrote(command: Command, tiny: list[str]) -> None:
    flags = stages(command(E2E, *tiny))
    out = value(flags["train"], "--output_dir")
    assert out == str(SCRIPTS.parent / "runs/share/gpt2_medium_e2e") + ("_tiny" if tiny else "")
    assert value(flags["decode"], "--adapter") == out
    texts = value(flags["decode"], "--work_dir")
    assert value(flags["score"], "--predictions") == f"{texts}/predictions.txt"
    assert value(flags["score"], "--output") == texts == f"{out}/beam"


def test_what_can_be_set(command: Command) -> None:
    settings = {"MODEL": "my models/one", "OUTPUT_DIR": "an output/here", "ADAPTER": "other one"}
    extra = {"DECODE_FLAGS": "--beam 5 --limit 3", "SCORE_FLAGS": "--without meteor"}
    flags = stages(command(E2E, "--seed", "7", "--note x", NPROC="2", **settings, **extra))
    assert flags["train"][-3:] == ["--seed", "7", "--note x"]
    assert value(flags["train"], "--per_device_train_batch_size") == "4"
    assert (
        value(flags["train"], "--model_name_or_path")
        == value(flags["decode"], "--model_name_or_path")
        == settings["MODEL"]
    )
    assert value(flags["decode"], "--adapter") == "other one"
    assert value(flags["decode"], "--work_dir") == "an output/here/beam"
    assert flags["decode"][-4:] == ["--beam", "5", "--limit", "3"] and flags["score"][-2:] == ["--without", "meteor"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("", "train decode score"),
        ("decode score", "decode score"),
        ("score", "score"),
        ("train,decode", "train decode"),
    ],
)
def test_stages_can_be_chosen(command: Command, chosen: str, expected: str) -> None:
    assert list(stages(command(E2E, **({"STAGES": chosen} if chosen else {})))) == expected.split()


def test_a_dry_run_is_one_of_the_tuning(command: Command) -> None:
    assert list(stages(command(E2E, "--dry_run"))) == ["train"]


def test_an_unknown_stage_is_refused_before_anything_runs() -> None:
    done = subprocess.run(
        ["bash", str(SCRIPTS / E2E)], env=environment(STAGES="train decoding"), capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: found the stage decoding in STAGES; need some of train decode score; change STAGES\n"


def run(name: str, *flags: str, seconds: int = 280, **settings: str) -> str:
    """Run a script and return what it printed."""
    done = subprocess.run(
        ["bash", str(SCRIPTS / name), *flags],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def times(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


SHORT = ("--tiny", "--max_steps", "4", "--eval_steps", "2", "--save_steps", "2")


DECODE = {"DECODE_FLAGS": "--beam 2 --eval_len 12"}


@pytest.mark.slow
@pytest.mark.usefixtures("hardly_trained")
def test_a_run_is_tuned_decoded_and_scored(tmp_path: Path) -> None:
    run(E2E, *SHORT, OUTPUT_DIR=str(tmp_path), **DECODE)
    files = {str(file.relative_to(tmp_path)): json.loads(file.read_text()) for file in tmp_path.rglob("result*.json")}
    kinds = {"result.json": "train", "beam/result.json": "beam", "beam/result_nlg_score.json": "nlg_score"}
    assert {name: result["kind"] for name, result in files.items()} == kinds
    adapters = {result["files"]["adapter"]["sha256"] for result in files.values()}
    assert len(adapters) == 1, "the three are one row in a comparison"
    metrics: dict[str, Any] = files["beam/result_nlg_score.json"]["metrics"]
    assert metrics["inputs"] == 48 and set(metrics) >= {"BLEU", "NIST", "ROUGE_L", "CIDEr"}
    assert len((tmp_path / "beam/predictions.txt").read_text().splitlines()) == 48


@pytest.mark.slow
@pytest.mark.usefixtures("hardly_trained")
def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    settings = {"OUTPUT_DIR": str(tmp_path), **DECODE}
    run(E2E, *SHORT, **settings)
    before = times(tmp_path)
    printed = run(E2E, "--tiny", **settings)
    assert "is tuned already" in printed and "are there already" in printed and "is scored already" in printed
    assert times(tmp_path) == before
    # What was interrupted goes on: half of the texts, and none of the scores.
    lines = (tmp_path / "beam/hypotheses.jsonl").read_text().splitlines()
    (tmp_path / "beam/hypotheses.jsonl").write_text("\n".join(lines[:20]) + "\n")
    (tmp_path / "beam/predictions.txt").unlink()
    printed = run(E2E, "--tiny", **settings)
    assert "is tuned already" in printed and "19 of 48 inputs are done" in printed and "BLEU" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("hardly_trained")
@pytest.mark.parametrize("name", ["lora/gpt2_large_webnlg.sh", "share/gpt2_large_dart.sh"])
def test_the_other_data_sets_run_too(tmp_path: Path, name: str) -> None:
    run(name, *SHORT, OUTPUT_DIR=str(tmp_path), **DECODE)
    metrics = json.loads((tmp_path / "beam/result_nlg_score.json").read_text())["metrics"]
    assert set(metrics) >= {"BLEU", "TER"} and ("BLEU_unseen" in metrics) is ("webnlg" in name)


@pytest.mark.slow
@pytest.mark.usefixtures("hardly_trained")
def test_decoding_without_what_was_tuned_ends_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPTS / E2E), "--tiny"],
        env={**environment(STAGES="decode", OUTPUT_DIR=str(tmp_path / "none")), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "error: " in done.stderr and os.fspath(tmp_path / "none") in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tiny_run_teaches_what_its_base_cannot_do(tmp_path: Path) -> None:
    cache = {"SHARELORA_CACHE": str(tmp_path / "cache")}
    run(E2E, "--tiny", seconds=600, OUTPUT_DIR=str(tmp_path / "tuned"), **cache)
    run(E2E, "--tiny", STAGES="decode score", ADAPTER="none", OUTPUT_DIR=str(tmp_path / "base"), **cache)
    bleu = {
        name: json.loads((tmp_path / name / "beam/result_nlg_score.json").read_text())["metrics"]["BLEU"]
        for name in ("tuned", "base")
    }
    assert bleu["tuned"] > bleu["base"] + 0.1
