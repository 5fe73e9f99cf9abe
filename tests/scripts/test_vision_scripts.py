"""The scripts of LLaVA: flags that the job takes, the paper's numbers, data from outside, and a dry run of each."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from script_commands import Command, flags_of, value

from sharelora.training.vision.job import VisionArguments, parse, run

SCRIPTS = [f"{variant}/finetune_llava15_7b_full.sh" for variant in ("share", "lora")]


def arguments(words: list[str]) -> VisionArguments:
    """Parse the command line of the job."""
    return parse(flags_of(words, "qlora_share/llava_share.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_is_what_the_paper_says(command: Command, script: str) -> None:
    args = arguments(command(script, DATA_PATH="rows.json", IMAGE_FOLDER="my images"))
    train, flags = args.train, args.values
    assert args.notices == () and args.model.bits == 16 and train["bf16"]
    assert flags["share"] == ("a" if script.startswith("share/") else "none")
    assert (flags["lora_modules"], flags["lora_r"]) == ("all", 64)
    assert (flags["lora_alpha"], flags["lora_dropout"]) == (128, 0.05)
    assert train["per_device_train_batch_size"] * train["gradient_accumulation_steps"] == 64
    assert (train["num_train_epochs"], train["max_steps"], train["optim"]) == (1, -1, "adamw_torch")
    assert (train["learning_rate"], train["lr_scheduler_type"], train["warmup_steps"]) == (2e-4, "cosine", 0.03)
    assert (args.vision.data_path, args.vision.image_folder) == ("rows.json", "my images")
    assert args.vision.model_max_length == 2048 and args.vision.chat_template == "vicuna"


def test_processes_share_the_examples_of_an_update(command: Command) -> None:
    words = command(SCRIPTS[0], NPROC="8", DATA_PATH="rows.json")
    assert value(words, "--gradient_accumulation_steps") == "8" and value(words, "--num_processes") == "8"


def test_without_data_the_message_says_what_to_pass(command: Command) -> None:
    with pytest.raises(ValueError, match="found no --data_path"):
        arguments(command(SCRIPTS[0]))


@pytest.mark.usefixtures("hardly_trained")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_tiny_dry_run_checks_everything_and_writes_nothing(
    command: Command, script: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    with caplog.at_level(logging.INFO, "sharelora"):
        run(arguments(command(script, "--tiny", "--dry_run", OUTPUT_DIR=str(folder))))
    assert "dry run: no weights were loaded" in caplog.text
    shared = "own" if script.startswith("lora/") else "all"
    assert f"self_attn.q_proj  {shared}" in caplog.text and "vision_tower" not in caplog.text
    assert not folder.exists() or not any(folder.iterdir())
