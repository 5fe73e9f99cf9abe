"""What a user can set: the model, folders, processes, --tiny, further flags, from any working directory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from script_commands import Command, environment, value

TRAIN = "share/finetune_alpaca_llama3_8b_full.sh"
EVALUATE = "share/eval/MMLU_evaluate_llama3_8b_full.sh"


def test_defaults_come_from_the_model_and_lie_in_the_projects_folder(command: Command, scripts: Path) -> None:
    words = command(TRAIN)
    assert value(words, "--model_name_or_path") == "meta-llama/Meta-Llama-3-8B"
    assert value(words, "--output_dir") == str(scripts.parent / "runs/share/alpaca_llama3_8b_full")
    assert words[1] == str(scripts.parent / "qlora_share" / "qlora_share.py")


def test_model_and_folder_can_be_set_and_may_hold_spaces(command: Command) -> None:
    words = command(TRAIN, MODEL="my models/one", OUTPUT_DIR="an output/here")
    assert value(words, "--model_name_or_path") == "my models/one"
    assert value(words, "--output_dir") == "an output/here"
    words = command(EVALUATE, MODEL="my models/one", ADAPTER="an output/here", OUTPUT_DIR="score s")
    assert [value(words, flag) for flag in ("--model", "--adapter", "--output")] == [
        "my models/one",
        "an output/here",
        "score s",
    ]


@pytest.mark.parametrize("script", [TRAIN, EVALUATE])
def test_further_flags_come_last_word_for_word(command: Command, script: str) -> None:
    flags = ["--seed", "7", "--note", "two words", "--empty", ""]
    assert command(script, *flags)[-len(flags) :] == flags


def test_tiny_names_no_model_and_writes_beside_the_real_run(command: Command) -> None:
    words = command(TRAIN, "--tiny")
    assert "--model_name_or_path" not in words
    assert value(words, "--output_dir").endswith("runs/share/alpaca_llama3_8b_full_tiny")
    assert int(value(words, "--max_steps")) <= 200 < int(value(command(TRAIN), "--max_steps"))


def test_tiny_leaves_the_last_word_to_the_user(command: Command) -> None:
    assert value(command(TRAIN, "--tiny", "--max_steps", "3"), "--max_steps") == "3"
    assert value(command(TRAIN, "--tiny", MODEL="mine"), "--model_name_or_path") == "mine"


@pytest.mark.parametrize(
    ("arguments", "setting", "tiny"),
    [
        (["--tiny"], "", True),
        (["--tiny", "true"], "0", True),
        (["--tiny=true"], "", True),
        ([], "1", True),
        (["--seed", "1", "--tiny", "--seed", "2"], "", True),
        (["--tiny", "false"], "1", False),
        (["--tiny=no"], "", False),
        ([], "0", False),
        ([], "", False),
    ],
)
def test_tiny_can_be_said_in_several_ways(command: Command, arguments: list[str], setting: str, tiny: bool) -> None:
    words = command(TRAIN, *arguments, **({"SHARELORA_TINY": setting} if setting else {}))
    assert value(words, "--output_dir").endswith("_tiny") is tiny


@pytest.mark.parametrize("exam", ["MMLU", "MMLU_PRO", "Commonsense"])
@pytest.mark.parametrize("end", ["share_full", "share_4bit", "lora_full"])
@pytest.mark.parametrize(
    "model", ["llama_7b", "llama_13b", "llama2_7b", "llama2_13b", "llama2_70b", "llama3_8b", "llama3_70b"]
)
@pytest.mark.parametrize("arguments", [[], ["--tiny"]], ids=["real", "tiny"])
def test_an_evaluation_looks_where_its_training_wrote(
    command: Command, exam: str, end: str, model: str, arguments: list[str]
) -> None:
    (variant, precision), data = end.split("_"), "commonsense" if exam == "Commonsense" else "alpaca"
    train = command(f"{variant}/finetune_{data}_{model}_{precision}.sh", *arguments)
    evaluate = command(f"{variant}/eval/{exam}_evaluate_{model}_{precision}.sh", *arguments)
    assert value(evaluate, "--adapter") == value(train, "--output_dir")
    assert value(evaluate, "--output") != value(train, "--output_dir")
    assert "--tiny" in arguments or value(evaluate, "--model") == value(train, "--model_name_or_path")


def test_several_processes_share_the_same_examples_per_update(command: Command) -> None:
    one, four = command(TRAIN), command(TRAIN, NPROC="4")
    assert "accelerate.commands.launch" not in one
    assert value(four, "--num_processes") == "4"
    steps = [int(value(words, "--gradient_accumulation_steps")) for words in (one, four)]
    assert steps == [16, 4]
    words = command(TRAIN, NPROC="2", LAUNCH_FLAGS="--main_process_port 0")
    entry = next(index for index, word in enumerate(words) if word.endswith("qlora_share.py"))
    assert words[entry - 2 : entry] == ["--main_process_port", "0"] and "--multi_gpu" in words[:entry]


def test_an_engine_of_accelerate(command: Command, scripts: Path, tmp_path: Path) -> None:
    words = command(TRAIN, ACCELERATE="fsdp2")
    assert value(words, "--config_file") == str(scripts / "accelerate" / "fsdp2.yaml")
    assert value(words, "--num_processes") == "2" and value(words, "--gradient_accumulation_steps") == "8"
    own = tmp_path / "own.yaml"
    own.write_text("num_processes: 4  # GPUs\n")
    words = command(TRAIN, ACCELERATE=str(own), LAUNCH_FLAGS="--machine_rank 1")
    assert value(words, "--config_file") == str(own) and value(words, "--machine_rank") == "1"
    assert value(words, "--gradient_accumulation_steps") == "4"
    assert value(command(TRAIN, ACCELERATE=str(own), NPROC="8"), "--num_processes") == "8"


def test_an_engine_that_is_not_there_is_refused(scripts: Path) -> None:
    done = subprocess.run(
        ["bash", str(scripts / TRAIN)],
        env=environment(PRINT_COMMAND="1", ACCELERATE="tpu"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: found ACCELERATE=tpu; need a file, or one of scripts/accelerate: ddp ddp_cpu")


@pytest.mark.parametrize("processes", ["3", "0", "two", "-1", "32"])
def test_a_number_of_processes_that_cannot_be_is_refused(scripts: Path, processes: str) -> None:
    done = subprocess.run(
        ["bash", str(scripts / TRAIN)],
        env=environment(PRINT_COMMAND="1", NPROC=processes),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: found NPROC={processes}; need a ")
    assert done.stdout == ""


def test_gsm8k_leaves_room_for_its_eight_examples_and_never_chooses_on_test(command: Command) -> None:
    words = command("share/finetune_gsm8k_llama3_8b_full.sh")
    assert int(value(words, "--source_max_len")) >= 1024
    assert int(value(words, "--eval_dataset_size")) > 0
    assert "test" not in words and "--few_shot" not in words
