"""The command line of the GLUE job: LoRA's flags and defaults, today's names, one method, nothing swallowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharelora.support.errors import UserError
from sharelora.training.glue.job import build_parser, parse
from sharelora.training.glue.methods import METHODS
from sharelora.training.glue.options import RULES

# LoRA's run_glue.py and the Trainer under it: flag -> default. Where today's Trainer calls it otherwise, the new name.
UPSTREAM = {
    "task_name": None,
    "max_seq_length": 128,
    "max_train_samples": None,
    "max_eval_samples": None,
    "max_predict_samples": None,
    "train_file": None,
    "validation_file": None,
    "test_file": None,
    "tokenizer_name": None,
    "cache_dir": None,
    "lora_path": None,
    "adapter_type": "houlsby",
    "adapter_size": 64,
    "reg_loss_wgt": 0.0,
    "masking_prob": 0.0,
    "cls_dropout": None,
    "use_deterministic_algorithms": False,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "seed": 42,
    "fp16": False,
    "label_smoothing_factor": 0.0,
}
# Every other flag of its command line, and a value that it takes there.
ACCEPTED = {
    "overwrite_cache": "",
    "max_val_samples": "5",
    "max_test_samples": "5",
    "use_fast_tokenizer": "true",
    "model_revision": "main",
    "use_auth_token": "true",
    "apply_bitfit": "",
    "apply_adapter": "",
    "adapter_path": "x",
    "evaluation_strategy": "epoch",
    "warmup_ratio": "0.06",
    "load_best_model_at_end": "",
    "metric_for_best_model": "eval_accuracy",
    "greater_is_better": "true",
    "pad_to_max_length": "",
    "group_by_length": "",
    "no_cuda": "",
}


def method(*words: str) -> str:
    return parse(list(words)).method.name


def test_defaults_are_loras() -> None:
    flags = parse([]).values
    assert {name: flags[name] for name in UPSTREAM} == UPSTREAM
    assert (flags["lora_r"], flags["lora_alpha"], flags["pad_to_max_length"]) == (8, 16, False)


@pytest.mark.parametrize("flag", ACCEPTED)
def test_every_upstream_flag_is_taken(flag: str) -> None:
    args = parse([f"--{flag}", *([ACCEPTED[flag]] if ACCEPTED[flag] else [])])
    assert f"--{flag}" in build_parser().flags or any(flag in notice for notice in args.notices)


def test_old_names_are_passed_on_with_a_word() -> None:
    args = parse("--max_val_samples 7 --warmup_ratio 0.1 --load_best_model_at_end false --adapter_path dir".split())
    assert (args.data.max_eval_samples, args.train["warmup_steps"]) == (7, 0.1)
    assert (args.how.save_epoch, args.model.lora_path) == ("last", "dir")
    assert sum("is now" in notice for notice in args.notices) == 4


@pytest.mark.parametrize("flag", ["config_name", "bits", "fp16_full_eval", "sharded_ddp"])
def test_what_is_not_done_here_is_refused_with_the_reason(flag: str) -> None:
    with pytest.raises(UserError, match=rf"--{flag}.*drop the flag"):
        parse([f"--{flag}", "x"])


def test_no_rule_hides_a_flag() -> None:
    assert not {f"--{name}" for name in RULES} & set(build_parser().flags)


def test_an_unknown_flag_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--lora_rr.*did you mean --lora_r"):
        parse(["--lora_rr", "4"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "share_a"),
        ("--share none", "lora"),
        ("--share ab --share_groups odd_even", "odd_even"),
        ("--share ab --share_groups 0-5,6-11", "share"),
        ("--share_plan plan.json", "share"),
        ("--apply_lora", "lora"),
        ("--apply_lora --share a", "share_a"),
        ("--apply_lora --method share_b", "share_b"),
        ("--apply_bitfit", "bitfit"),
        ("--apply_adapter", "houlsby"),
        ("--apply_adapter --adapter_type pfeiffer --adapter_size 16", "pfeiffer"),
        ("--apply_lora false --method full", "full"),
        ("--method share_a --share a", "share_a"),
        ("--method lora --lora_r 4", "lora"),
    ],
)
def test_switches_methods_and_sharing_flags_mean_one_method(
    words: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text('{"sites": [{"path": "*", "a": "all", "b": "{kind}/{layer}"}]}')
    assert method(*words.split()) == expected


@pytest.mark.parametrize("name", METHODS)
def test_a_method_sets_its_sharing_flags(name: str) -> None:
    args = parse(["--method", name])
    assert args.method is METHODS[name]
    assert (args.values["share"], args.values["share_groups"]) == {
        "lora": ("none", None), "share_a": ("a", None), "share_b": ("b", None), "share_ab": ("ab", None),
        "odd_even": ("ab", "odd_even"),
    }.get(name, (None, None))  # fmt: skip
    assert args.train["learning_rate"] == METHODS[name].learning_rate
    assert any(f"default of {name}" in notice for notice in args.notices)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--apply_bitfit --method full", "one method"),
        ("--apply_adapter --apply_bitfit", "one method"),
        ("--apply_lora --apply_bitfit", "--apply_lora.*bitfit"),
        ("--apply_lora false", "what trains instead"),
        ("--method lora --share a", "means none"),
        ("--method odd_even --share_groups 0-3", "means odd_even"),
        ("--method bitfit --lora_r 4", "--lora_r.*no low-rank"),
        ("--method full --share a", "--share.*no low-rank"),
        ("--method houlsbi", "did you mean houlsby"),
        ("--masking_prob 0.1", "without --reg_loss_wgt"),
        ("--reg_loss_wgt -1", "at least 0"),
        ("--adapter_size 0", "--adapter_size: found '0'; need a whole number of at least 1"),
        ("--eval_strategy no --selection_metric loss", "--eval_strategy"),
    ],
)
def test_contradictions_are_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(words.split())


@pytest.mark.parametrize(
    ("words", "does"),
    [
        ("", (True, True, False)),
        ("--do_train", (True, True, False)),
        ("--do_eval", (False, True, False)),
        ("--do_predict", (False, False, True)),
        ("--lora_path x", (False, True, False)),
        ("--lora_path x --do_train", (True, True, False)),
        ("--do_train --do_eval false", (True, False, False)),
    ],
)
def test_what_is_done_is_what_is_asked_for(words: str, does: tuple[bool, ...]) -> None:
    train = parse(words.split()).train
    assert tuple(train[f"do_{name}"] for name in ("train", "eval", "predict")) == does
    assert train["eval_strategy"] == ("epoch" if does[1] else "no")


def test_settings_come_from_a_file_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("task_name: cola\nlearning_rate: 1.0e-3\nmax_val_samples: 9\n")
    args = parse(["--config", str(tmp_path / "c.yaml"), "--learning_rate", "2e-3"])
    assert (args.data.task_name, args.train["learning_rate"], args.data.max_eval_samples) == ("cola", 2e-3, 9)
    (tmp_path / "c.json").write_text(json.dumps({"task_name": "rte", "share": "b"}))
    args = parse([str(tmp_path / "c.json")])
    assert (args.data.task_name, args.method.name) == ("rte", "share_b")
    (tmp_path / "c.json").write_text(json.dumps({"task_nam": "rte"}))
    with pytest.raises(UserError, match="did you mean --task_name"):
        parse([str(tmp_path / "c.json")])


def test_tiny_changes_defaults_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARELORA_TINY", "1")
    args = parse(["--num_train_epochs", "1"])
    assert args.run.tiny and args.tiny_base and args.train["num_train_epochs"] == 1
    assert args.train["learning_rate"] > METHODS["share_a"].learning_rate
    assert not parse(["--model_name_or_path", "x"]).tiny_base
