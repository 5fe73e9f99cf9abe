"""The command line of LoRA's script: its names, its defaults, what changed, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sharelora.models.known import MODEL_CARDS
from sharelora.support.errors import UserError
from sharelora.training.nlg.job import NlgArguments, build_parser, parse

# The README's recipe for GPT-2 medium on E2E, with every flag of LoRA's script that it has.
RECIPE = (
    "--train_data ./data/e2e/train.jsonl --valid_data ./data/e2e/valid.jsonl --train_batch_size 8 --grad_acc 1"
    " --valid_batch_size 4 --seq_len 512 --model_card gpt2.md --platform local --clip 0.0 --lr 0.0002"
    " --weight_decay 0.01 --correct_bias --adam_beta2 0.999 --scheduler linear --warmup_step 500 --max_epoch 5"
    " --save_interval 1000 --lora_dim 4 --lora_alpha 32 --lora_dropout 0.1 --label_smooth 0.1"
    " --work_dir ./trained_models/GPT2_M/e2e --random_seed 110"
)
# Every flag of LoRA's `gpt2_ft.py`, with its default where it has one that is kept.
UPSTREAM: dict[str, Any] = {
    "train_data": "e2e",
    "valid_data": None,
    "train_batch_size": 8,
    "valid_batch_size": 4,
    "grad_acc": 1,
    "clip": 0.0,
    "seq_len": 512,
    "model_card": "gpt2.md",
    "fp16": False,
    "log_interval": 100,
    "eval_interval": 2000,
    "save_interval": 500,
    "lora_alpha": 128,
    "lora_dropout": 0.0,
    "obj": "clm",
    "label_smooth": 0.0,
    "random_seed": 10,
    "lr": 1e-5,
    "weight_decay": 0.01,
    "correct_bias": False,
    "adam_epislon": 1e-6,
    "no_decay_bias": False,
    "adam_beta1": 0.9,
    "adam_beta2": 0.98,
    "scheduler": "linear",
    "warmup_step": 0,
    "i_steps": "0",
    "i_lrs": "0.00025",
}
OTHERS = ("init_checkpoint", "work_dir", "max_step", "max_epoch")


def value(args: NlgArguments, flag: str) -> Any:
    """What a flag is, under any of its names."""
    action = build_parser()._option_string_actions[f"--{flag}"]
    return args.values[action.dest]


def test_the_published_recipe_means_what_it_meant() -> None:
    args = parse(RECIPE.split())
    train = args.train
    assert (train["per_device_train_batch_size"], train["per_device_eval_batch_size"]) == (8, 4)
    assert (train["learning_rate"], train["warmup_steps"], train["num_train_epochs"]) == (2e-4, 500, 5)
    assert (train["max_grad_norm"], train["label_smoothing_factor"], train["seed"]) == (0.0, 0.1, 110)
    assert (train["adam_beta1"], train["adam_beta2"], train["adam_epsilon"]) == (0.9, 0.999, 1e-6)
    assert (args.values["lora_r"], args.values["lora_alpha"], args.values["lora_dropout"]) == (4, 32, 0.1)
    assert (args.values["lora_modules"], args.values["enable_lora"]) == ("c_attn", "c_attn=1,0,1")
    assert args.model.model_name_or_path == MODEL_CARDS["gpt2.md"] and args.nlg.correct_bias
    assert args.output_dir == Path("trained_models/GPT2_M/e2e") and train["save_steps"] == 1000
    assert sorted(args.notices) == [
        "--lora_dim 4 is --lora_r 4",
        "--platform is dropped: torchrun or accelerate launch says it in the environment",
    ]


def test_every_flag_of_loras_script_is_known_and_keeps_its_default() -> None:
    args = parse([])
    assert {flag: value(args, flag) for flag in UPSTREAM} == UPSTREAM
    for flag in OTHERS:
        value(args, flag)
    # LoRA tunes everything by default; here adapters, as its recipe does, and without --share they share A.
    assert args.values["lora_r"] == 4 and args.values["share"] is None and args.train["num_train_epochs"] == 5


@pytest.mark.parametrize(
    "flag", ["roll_interval", "roll_lr", "roll_step", "eval_epoch", "rank", "device", "world_size"]
)
def test_flags_that_do_nothing_are_dropped_with_a_notice(flag: str) -> None:
    notices = parse([f"--{flag}", "1"]).notices
    assert len(notices) == 1 and notices[0].startswith(f"--{flag} is dropped")


def test_modern_names_stand_beside_loras() -> None:
    pairs = [
        ("lr", "learning_rate"),
        ("adam_epislon", "adam_epsilon"),
        ("train_batch_size", "per_device_train_batch_size"),
    ]
    for old, new in pairs:
        assert parse([f"--{old}", "1"]).to_json()[new] == parse([f"--{new}", "1"]).to_json()[new] == 1
    assert parse(["--lr_scheduler_type", "cosine"]).nlg.scheduler == "cosine"
    assert {"lr", "seed"} <= {"lr", *parse(["--lr", "1", "--seed", "3"]).given}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--train_dat x", "unknown flag --train_dat; need a flag that this command has; did you mean --train_data"),
        ("--scheduler inv_sqrt", "found 'inv_sqrt'; need one of linear, cosine, constant, cycle"),
        ("--obj lm", "need one of clm, jlm"),
        ("--model_card gpt2.xl", "need one of gpt2.sm, gpt2.md, gpt2.lg"),
        (
            "--init_checkpoint ./gpt2-medium-pytorch_model.bin",
            "pickled weights .* need a folder with model.safetensors",
        ),
        ("--seq_len 2", "found seq_len 2; need room"),
        ("--max_train_samples 0", "--max_train_samples: found '0'; need a whole number of at least 1"),
        ("--scheduler cycle --i_steps 0,10 --i_lrs 0", "need as many whole numbers as rates"),
        ("--scheduler cycle --i_steps 5,10 --i_lrs 0,1", "need at least two that rise from 0"),
        ("--lora_dim x", "argument --lora_r: found 'x'; need a whole number of at least 1"),
        ("--train_batch_size 0", "--train_batch_size: found '0'; need a whole number of at least 1"),
        ("--valid_batch_size 0", "--valid_batch_size: found '0'; need a whole number of at least 1"),
        ("--grad_acc 0", "--grad_acc: found '0'; need a whole number of at least 1"),
        ("--label_smooth 1", "--label_smooth: found '1'; need a number of at least 0 and below 1"),
        ("--optim sgd", "unknown flag --optim"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(words.split())


def test_the_schedule_cycle_says_when_to_end() -> None:
    args = parse("--scheduler cycle --i_steps 0,100,300 --i_lrs 0,0.0002,0 --max_step 7".split())
    assert args.train["max_steps"] == 300 and "--max_step 300" in args.notices[0]


def test_other_modules_than_c_attn_have_no_slices() -> None:
    assert parse(["--lora_modules", "c_attn,c_proj"]).values["enable_lora"] == "c_attn=1,0,1"
    assert parse(["--lora_modules", "c_proj"]).values["enable_lora"] is None
    assert parse(["--lora_modules", "all"]).values["enable_lora"] == "c_attn=1,0,1"


def test_tiny_runs_are_short_and_what_is_said_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse(["--tiny"]).train["max_steps"] == 120
    assert parse(["--tiny", "--max_step", "3", "--lr", "0.5"]).train["max_steps"] == 3
    assert parse(["--tiny", "--max_epoch", "2"]).train["max_steps"] == -1
    monkeypatch.setenv("SHARELORA_TINY", "1")
    assert parse([]).run.tiny


def test_a_file_of_settings_stands_behind_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("lr: 0.001\nlora_dim: 8\ntrain_data: dart\n")
    args = parse(["--config", str(file), "--train_data", "webnlg"])
    assert (args.train["learning_rate"], args.values["lora_r"], args.nlg.train_data) == (0.001, 8, "webnlg")
