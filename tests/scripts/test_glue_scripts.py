"""The scripts for GLUE: LoRA's published numbers, the examples per update, the start from MNLI, and what can be set."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from script_commands import SCRIPTS, Command, environment, flags_of, value

from sharelora.training.glue.job import parse

TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
FROM_MNLI = ("mrpc", "rte", "stsb")
# LoRA's scripts: learning rate, epochs, examples per update on all its GPUs, most tokens.
ROBERTA = {
    "roberta_base": {
        "mnli": (5e-4, 30, 128, 512),
        "sst2": (5e-4, 60, 128, 512),
        "mrpc": (4e-4, 30, 128, 512),
        "cola": (4e-4, 80, 64, 512),
        "qnli": (4e-4, 25, 256, 512),
        "qqp": (5e-4, 25, 128, 512),
        "rte": (5e-4, 80, 256, 512),
        "stsb": (4e-4, 40, 128, 512),
    },
    "roberta_large": {
        "mnli": (3e-4, 10, 32, 128),
        "sst2": (4e-4, 10, 64, 512),
        "mrpc": (3e-4, 20, 32, 512),
        "cola": (3e-4, 20, 32, 128),
        "qnli": (2e-4, 10, 32, 512),
        "qqp": (3e-4, 20, 32, 512),
        "rte": (4e-4, 20, 64, 512),
        "stsb": (3e-4, 10, 32, 128),
    },
}
# The same, then warm-up, weight decay, dropout of the head, updates between evaluations.
DEBERTA = {
    "mnli": (1e-4, 5, 64, 256, 1000, 0.0, 0.15, 500),
    "sst2": (6e-5, 16, 64, 128, 1000, 0.01, 0.0, 100),
    "mrpc": (2e-4, 30, 256, 128, 0.1, 0.01, 0.0, 10),
    "cola": (1.3e-4, 10, 32, 64, 100, 0.0, 0.1, 20),
    "qnli": (1e-4, 8, 48, 512, 500, 0.01, 0.1, 500),
    "qqp": (1e-4, 11, 64, 320, 10000, 0.01, 0.2, 500),
    "rte": (2.6e-4, 11, 32, 320, 50, 0.01, 0.2, 20),
    "stsb": (2e-4, 10, 32, 128, 100, 0.1, 0.2, 50),
}
SCRIPT_NAMES = [f"{model}_{task}" for model in (*ROBERTA, "deberta_v2_xxlarge") for task in TASKS]
SCRIPT_NAMES += [f"deberta_v2_xxlarge_mnli_{name}" for name in ("rdrop", "cutoff")]
PATHS = [f"{variant}/{name}.sh" for variant in ("share", "lora") for name in SCRIPT_NAMES]


def settings(words: list[str]) -> dict[str, Any]:
    """Parse the command line of the job; every setting by its flag's name."""
    args = parse(flags_of(words, "NLU/run_glue_share.py"))
    assert args.notices == (), args.notices
    return {**args.values, **args.train}


def batch(numbers: dict[str, Any]) -> int:
    return int(numbers["per_device_train_batch_size"] * numbers["gradient_accumulation_steps"])


@pytest.mark.parametrize("tiny", [[], ["--tiny"]], ids=["real", "tiny"])
@pytest.mark.parametrize("path", PATHS)
def test_the_parser_takes_every_flag_without_a_notice(command: Command, path: str, tiny: list[str]) -> None:
    numbers = settings(command(path, *tiny))
    assert numbers["tiny"] is bool(tiny)
    assert numbers["share"] == ("a" if path.startswith("share/") else "none")
    assert numbers["task_name"] in path and numbers["do_train"] and numbers["do_eval"]
    assert (numbers["lora_r"], numbers["lora_alpha"]) == ((16, 32) if "deberta" in path else (8, 16))
    # Query and value of whatever encoder it is.
    assert "--lora_modules" not in command(path) and numbers["held_out"] == 0.1


@pytest.mark.parametrize("model", ROBERTA)
@pytest.mark.parametrize("task", TASKS)
def test_roberta_has_the_numbers_of_loras_scripts(command: Command, model: str, task: str) -> None:
    numbers = settings(command(f"share/{model}_{task}.sh"))
    assert (
        numbers["learning_rate"],
        numbers["num_train_epochs"],
        batch(numbers),
        numbers["max_seq_length"],
    ) == ROBERTA[model][task]
    assert (numbers["warmup_steps"], numbers["weight_decay"], numbers["seed"]) == (0.06, 0.1, 0)
    assert (numbers["lr_scheduler_type"], numbers["eval_strategy"], numbers["save_strategy"]) == (
        "linear",
        "epoch",
        "epoch",
    )
    assert not numbers["fp16"] and not numbers["bf16"]


@pytest.mark.parametrize("task", TASKS)
def test_deberta_has_the_numbers_of_loras_scripts(command: Command, task: str) -> None:
    numbers = settings(command(f"share/deberta_v2_xxlarge_{task}.sh"))
    names = ("warmup_steps", "weight_decay", "cls_dropout", "eval_steps")
    first = (numbers["learning_rate"], numbers["num_train_epochs"], batch(numbers), numbers["max_seq_length"])
    assert (*first, *(numbers[name] for name in names)) == DEBERTA[task]
    assert (
        numbers["save_steps"] == numbers["eval_steps"]
        and numbers["eval_strategy"] == numbers["save_strategy"] == "steps"
    )
    assert numbers["fp16"] and numbers["use_deterministic_algorithms"] and numbers["seed"] == 0


@pytest.mark.parametrize(("name", "masking"), [("rdrop", 0.0), ("cutoff", 0.1)])
def test_the_regularizers_are_mnli_and_a_little_more(command: Command, name: str, masking: float) -> None:
    plain, numbers = (settings(command(f"share/deberta_v2_xxlarge_mnli{end}.sh")) for end in ("", f"_{name}"))
    changed = {key: numbers[key] for key in numbers if numbers[key] != plain[key]}
    assert changed.pop("output_dir") == f"{plain['output_dir']}_{name}"
    assert changed.pop("masking_prob", 0.0) == masking
    assert changed == {"reg_loss_wgt": 1.0, "seed": 42}


@pytest.mark.parametrize("path", [path for path in PATHS if path.startswith("share/")])
def test_examples_per_update_do_not_depend_on_the_number_of_processes(command: Command, path: str) -> None:
    one = command(path)
    whole = batch(settings(one))
    for processes in (2, 16):
        words = command(path, NPROC=str(processes))
        assert value(words, "--num_processes") == str(processes)
        each = int(value(words, "--per_device_train_batch_size"))
        assert each * int(value(words, "--gradient_accumulation_steps")) * processes == whole
        # No process gets more at once than a GPU of LoRA's runs had.
        assert each <= int(value(one, "--per_device_train_batch_size"))


@pytest.mark.parametrize("processes", ["3", "0", "two", "64"])
def test_a_number_of_processes_that_cannot_be_is_refused(processes: str) -> None:
    done = run("share/roberta_large_mnli.sh", PRINT_COMMAND="1", NPROC=processes)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: found NPROC={processes}; need a ")


def run(script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("tiny", [[], ["--tiny"]], ids=["real", "tiny"])
@pytest.mark.parametrize("path", PATHS)
def test_three_tasks_start_from_the_adapter_of_the_mnli_script(command: Command, path: str, tiny: list[str]) -> None:
    words = command(path, *tiny)
    if not path.removesuffix(".sh").endswith(FROM_MNLI):
        assert "--lora_path" not in words and "--new_head" not in words
        return
    mnli = command(f"{path.rpartition('_')[0]}_mnli.sh", *tiny)
    assert value(words, "--lora_path") == value(mnli, "--output_dir")
    assert value(words, "--new_head") == "true"


def test_the_start_can_be_chosen_or_left_out(command: Command) -> None:
    assert value(command("lora/roberta_base_rte.sh", INIT="my adapters/one"), "--lora_path") == "my adapters/one"
    assert "--lora_path" not in command("lora/roberta_base_rte.sh", INIT="none")
    assert "--lora_path" not in command("lora/roberta_base_sst2.sh", INIT="my adapters/one")


def test_without_the_start_the_message_says_how_to_get_it(tmp_path: Path) -> None:
    done = run("share/roberta_base_mrpc.sh", "--tiny", INIT=str(tmp_path / "nothing"))
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: found no adapter {tmp_path / 'nothing'}; mrpc starts from one tuned on mnli; ")
    assert "run scripts/share/roberta_base_mnli.sh --tiny first" in line and "INIT=none" in line


def test_a_tiny_run_is_short_names_no_model_and_leaves_the_last_word_to_the_user(command: Command) -> None:
    words = command("share/deberta_v2_xxlarge_mnli.sh", "--tiny", "--num_train_epochs", "1")
    assert "--model_name_or_path" not in words
    assert value(words, "--output_dir").endswith(f"{os.sep}share{os.sep}deberta_v2_xxlarge_mnli_tiny")
    assert value(words, "--num_train_epochs") == "1" and value(words, "--fp16") == "false"
    assert float(value(command("share/roberta_base_cola.sh", "--tiny"), "--num_train_epochs")) <= 5
    assert value(command("share/roberta_base_cola.sh", "--tiny", MODEL="mine"), "--model_name_or_path") == "mine"


def test_a_tiny_run_has_the_numbers_that_the_job_takes_for_one(command: Command) -> None:
    names = ("num_train_epochs", "max_seq_length", "warmup_steps", "per_device_train_batch_size", "learning_rate")
    script = settings(command("share/deberta_v2_xxlarge_qnli.sh", "--tiny"))
    flags = parse(["--tiny", "--task_name", "qnli", "--share", "a"]).values
    assert {name: script[name] for name in names} == {name: flags[name] for name in names}
