"""The scripts for GSM8K and HumanEval: the authors' numbers, one folder for both stages, and a tiny run for real."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from script_commands import SCRIPTS, Command, environment, load, value

from sharelora.data.gsm8k import STOP as GSM8K_STOP
from sharelora.data.humaneval import STOP as HUMANEVAL_STOP
from sharelora.evaluation.generation.job import generation_settings
from sharelora.flags.parser import Parser

ENTRIES = {"GSM8K": "gsm8k", "HumanEval": "humaneval"}
NAMES = sorted(str(file.relative_to(SCRIPTS)) for test in ENTRIES for file in SCRIPTS.glob(f"*/eval/{test}_*.sh"))
SHARED = [name for name in NAMES if name.startswith("share/")]
DATA = {"GSM8K": "gsm8k", "HumanEval": "code"}


def parts(name: str) -> tuple[str, str, str, str]:
    """Test, stage, model and precision of a script."""
    test, stage, *model, precision = Path(name).stem.split("_")
    return test, stage, "_".join(model), precision


def entry(name: str) -> ModuleType:
    """The entry point that a script starts."""
    return load(SCRIPTS.parent / "eval" / f"{ENTRIES[parts(name)[0]]}.py")


def parsed(name: str, words: list[str]) -> argparse.Namespace:
    assert words[1] == str(SCRIPTS.parent / "eval" / f"{ENTRIES[parts(name)[0]]}.py")
    parser: Parser = entry(name).parser()
    return parser.parse(words[2:])


@pytest.mark.parametrize("tiny", [[], ["--tiny"]], ids=["real", "tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_the_entry_point_takes_every_flag(command: Command, name: str, tiny: list[str]) -> None:
    args, (test, stage, _, precision) = parsed(name, command(name, *tiny)), parts(name)
    assert args.tiny is bool(tiny) and args.generate_only is (stage == "generate")
    assert args.bits == (4 if precision == "4bit" else 32 if tiny else 16)
    settings = generation_settings(args)
    assert settings.stop == (GSM8K_STOP if test == "GSM8K" else HUMANEVAL_STOP) and settings.seed == 0
    assert (args.engine, args.limit, args.batch_size) == ("hf", None, "auto")
    assert len(NAMES) == 32


@pytest.mark.parametrize("name", SHARED)
def test_a_run_is_what_its_sources_say(command: Command, name: str) -> None:
    args = parsed(name, command(name))
    numbers = (args.max_new_tokens, args.top_p, args.temperature)
    if parts(name)[0] == "GSM8K":
        assert numbers == (512, 0.95, 0.6) and (args.shots, args.split) == (8, "test")
    else:
        assert numbers == (1024, 0.95, 0.2) and (args.samples, args.k) == (1, [1])


@pytest.mark.parametrize("tiny", [[], ["--tiny"]], ids=["real", "tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_it_looks_where_its_training_wrote(command: Command, name: str, tiny: list[str]) -> None:
    test, _, model, precision = parts(name)
    train = command(f"{name.split('/')[0]}/finetune_{DATA[test]}_{model}_{precision}.sh", *tiny)
    words = command(name, *tiny)
    assert value(words, "--adapter") == value(train, "--output_dir")
    assert tiny or value(words, "--model") == value(train, "--model_name_or_path")
    if tiny and test == "GSM8K":
        assert value(words, "--shots") == value(train, "--few_shot")


@pytest.mark.parametrize("name", [name for name in NAMES if "generate" in name])
def test_the_second_stage_goes_on_with_the_texts_of_the_first(command: Command, name: str) -> None:
    first, second = command(name), command(name.replace("generate", "evaluate"))
    assert [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]] == [("true", "false")]


@pytest.mark.parametrize("name", SHARED)
def test_twins_differ_in_the_adapter_and_the_folder_alone(command: Command, name: str) -> None:
    share, lora = command(name), command(name.replace("share/", "lora/"))
    differing = [(a, b) for a, b in zip(share, lora, strict=True) if a != b]
    assert len(differing) == 2 and all(a.replace("runs/share/", "runs/lora/") == b for a, b in differing)


def test_what_a_user_sets_wins(command: Command) -> None:
    words = command(SHARED[0], "--temperature", "0", MODEL="my models/one", ADAPTER="an adapter", OUTPUT_DIR="o u t")
    assert [value(words, flag) for flag in ("--model", "--adapter", "--output", "--temperature")] == [
        "my models/one",
        "an adapter",
        "o u t",
        "0",
    ]


@pytest.mark.usefixtures("hardly_trained")
@pytest.mark.parametrize("name", [name for name in SHARED if "generate" in name])
def test_a_dry_run_checks_everything_and_writes_nothing(
    command: Command, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO, "sharelora"):
        entry(name).main(command(name, "--tiny", "--dry_run", OUTPUT_DIR=str(out), ADAPTER="none")[2:])
    assert "nothing was written" in caplog.text and not out.exists()


@pytest.mark.usefixtures("hardly_trained")
def test_gsm8k_is_generated_and_scored_by_both_stages(
    command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (f"share/eval/GSM8K_{stage}_llama3_8b_full.sh" for stage in ("generate", "evaluate"))
    flags, settings = ("--tiny", "--limit", "4", "--max_new_tokens", "8"), {"ADAPTER": "none"}
    entry(first).main(command(first, *flags, OUTPUT_DIR=str(tmp_path), **settings)[2:])
    assert (tmp_path / "texts.jsonl").exists() and not (tmp_path / "result.json").exists()
    with caplog.at_level(logging.INFO, "sharelora"):
        entry(second).main(command(second, *flags, OUTPUT_DIR=str(tmp_path), **settings)[2:])
    assert "4 of 4 texts are there already" in caplog.text
    metrics = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert metrics["questions"] == metrics["texts_found_before"] == 4


def bash(name: str, *arguments: str, **settings: str) -> str:
    done = subprocess.run(
        ["bash", str(SCRIPTS / name), *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("hardly_trained")
@pytest.mark.parametrize("test", ["GSM8K", "HumanEval"])
@pytest.mark.parametrize("variant", ["share", "lora"])
def test_what_was_tuned_is_generated_with(variant: str, test: str, tmp_path: Path) -> None:
    train, out, file = tmp_path / "train", tmp_path / "out", "texts.jsonl" if test == "GSM8K" else "samples.jsonl"
    sandbox = () if test == "GSM8K" or shutil.which("bwrap") else ("--sandbox", "rlimits")
    short = ("--max_steps", "4", "--eval_steps", "2", "--save_steps", "2", "--max_train_samples", "64")
    bash(f"{variant}/finetune_{DATA[test]}_llama3_8b_full.sh", "--tiny", *short, OUTPUT_DIR=str(train))
    settings = {"OUTPUT_DIR": str(out), "ADAPTER": str(train)}
    printed = bash(f"{variant}/eval/{test}_generate_llama3_8b_full.sh", "--tiny", "--limit", "4", **settings)
    assert "4 texts" in printed and len((out / file).read_text().splitlines()) == 4
    printed = bash(f"{variant}/eval/{test}_evaluate_llama3_8b_full.sh", "--tiny", "--limit", "4", *sandbox, **settings)
    metrics = json.loads((out / "result.json").read_text())["metrics"]
    assert metrics["texts_found_before"] == 4 and str(out) in printed
