"""The command line: QLoRA's flags and defaults, today's names, nothing swallowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharelora.flags.parser import TINY
from sharelora.flags.upstream import RULES
from sharelora.support.errors import UserError
from sharelora.training.instructions.job import build_parser, parse

# QLoRA's qlora.py: flag -> default. Where today's Trainer calls it something else, the new name.
QLORA = {
    "model_name_or_path": "EleutherAI/pythia-12b",
    "trust_remote_code": False,
    "token": None,
    "eval_dataset_size": 1024,
    "max_train_samples": None,
    "max_eval_samples": None,
    "source_max_len": 1024,
    "target_max_len": 256,
    "dataset": "alpaca",
    "dataset_format": None,
    "cache_dir": None,
    "train_on_source": False,
    "mmlu_split": "eval",
    "mmlu_dataset": "mmlu-fs",
    "do_mmlu_eval": False,
    "max_mmlu_samples": None,
    "mmlu_source_max_len": 2048,
    "full_finetune": False,
    "double_quant": True,
    "quant_type": "nf4",
    "bits": 4,
    "lora_r": 64,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "max_memory_MB": 80000,
    "report_to": "none",
    "output_dir": "./output",
    "optim": "paged_adamw_32bit",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 16,
    "max_steps": 10000,
    "weight_decay": 0.0,
    "learning_rate": 2e-4,
    "max_grad_norm": 0.3,
    "activation_checkpointing": True,
    "do_train": True,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0.03,
    "logging_steps": 10,
    "train_sampling_strategy": "group_by_length",
    "save_strategy": "steps",
    "save_steps": 250,
    "save_total_limit": 40,
    "max_new_tokens": 256,
    "min_new_tokens": None,
    "do_sample": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "use_cache": True,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "diversity_penalty": 0.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}


def test_defaults_are_qloras() -> None:
    flags = parse([]).values
    assert {name: flags[name] for name in QLORA} == QLORA


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--evaluation_strategy steps", "eval_strategy", "steps"),
        ("--group_by_length False", "train_sampling_strategy", "random"),
        ("--group_by_length", "train_sampling_strategy", "group_by_length"),
        ("--warmup_ratio=0.1", "warmup_steps", 0.1),
        ("--use_auth_token True", "token", "True"),
        ("--no_cuda", "use_cpu", True),
        ("--adam8bit", "optim", "adamw_bnb_8bit"),
        ("--adam8bit false", "optim", "paged_adamw_32bit"),
        ("--per_gpu_eval_batch_size 3", "per_device_eval_batch_size", 3),
        ("--adapter_order lora", "lora_r", 64),
        ("--save_safetensors true", "lora_r", 64),
        ("--no_double_quant", "double_quant", False),
    ],
)
def test_old_flags_are_mapped_with_a_notice(words: str, name: str, value: object) -> None:
    args = parse(words.split())
    assert args.values[name] == value
    assert [notice for notice in args.notices if words.split()[0].split("=")[0] in notice]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--gradient_checkpointing False", "activation_checkpointing", False),
        ("--activation_checkpointing False", "activation_checkpointing", False),
        ("--eval-steps 5", "eval_steps", 5),
        ("--train_sampling_strategy random", "train_sampling_strategy", "random"),
        ("--warmup_steps 10", "warmup_steps", 10),
        ("--no_repeat_ngram_size 3", "no_repeat_ngram_size", 3),
    ],
)
def test_todays_names_need_no_notice(words: str, name: str, value: object) -> None:
    args = parse([*words.split(), "--lr_scheduler_type", "linear"])
    assert args.values[name] == value
    assert args.notices == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lora_rank 4", "unknown flag --lora_rank.*did you mean --lora_r"),
        ("--max_step 4", "did you mean --max_steps"),
        ("--adapter_order lora,prefix", "need lora"),
        ("--prefix_virtual_token 50", "only LoRA adapters"),
        ("--save_safetensors false", "only safetensors"),
        ("--remove_unused_columns true", "collator needs every column"),
        ("--bf16_full_eval", "cast the adapter"),
        ("--logging_dir x", "TENSORBOARD_LOGGING_DIR"),
        ("--fp16_opt_level O1", "removed"),
        ("--warmup_ratio 3", "from 0 to less than 1"),
        ("--optim adamw_torchh", "adamw_torch"),
        ("--lr_scheduler_type constnt", "constant"),
        ("--bits 5", "4, 8, 16, 32"),
        ("--max_steps many", "max_steps"),
        ("--num_beam_groups 2", "diverse beam"),
        ("--source_max_len 0", "source_max_len"),
        ("stray", "stray"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(words.split())
    assert "\n" not in str(caught.value)


def test_no_old_name_hides_a_present_flag() -> None:
    assert not {f"--{name}" for name in RULES} & set(build_parser().flags)


def test_inert_warm_up_is_said() -> None:
    assert any("no warm-up" in notice for notice in parse(["--warmup_ratio", "0.03"]).notices)
    assert not parse([]).notices
    assert not parse(["--warmup_steps", "5", "--lr_scheduler_type", "constant_with_warmup"]).notices


def test_sampling_flags_without_sampling_are_said() -> None:
    assert any("top_p" in notice for notice in parse(["--top_p", "0.9"]).notices)
    assert not parse(["--top_p", "0.9", "--do_sample"]).notices


def test_an_adapter_means_no_training_unless_asked() -> None:
    assert parse(["--adapter", "x"]).train["do_train"] is False
    assert parse(["--checkpoint", "x"]).model.adapter == "x"
    assert parse(["--adapter", "x", "--do_train"]).train["do_train"] is True


def test_a_configuration_file_stands_behind_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lora_r: 8\nevaluation_strategy: steps\nbf16: true\noptim: null\nlabel_names: [labels]\n")
    args = parse(["--lora_r", "4", "--config", str(file)])
    assert (args.values["lora_r"], args.train["eval_strategy"], args.train["bf16"]) == (4, "steps", True)
    assert args.train["optim"] == "paged_adamw_32bit"


@pytest.mark.parametrize(
    ("text", "message"),
    [("lorar: 8", "run.yaml: found unknown flag lorar.*--lora_r"), ("- 1", "list"), ("a: [", "cannot read")],
)
def test_a_bad_configuration_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        parse(["--config", str(file)])


def test_tiny_changes_only_what_the_command_line_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    args = parse(["--max_steps", "7", "--tiny"])
    assert (args.run.tiny, args.train["max_steps"], args.model.bits) == (True, 7, 32)
    monkeypatch.setenv(TINY, "1")
    assert parse([]).run.tiny
    monkeypatch.setenv(TINY, "maybe")
    with pytest.raises(UserError, match=TINY):
        parse([])


def test_settings_as_json_hold_no_token() -> None:
    assert "token" not in parse(["--token", "secret", "--hub_token", "secret"]).to_json()
    assert "secret" not in str(parse(["--token", "secret", "--hub_token", "secret"]).to_json())


def test_help_lists_every_flag() -> None:
    text = build_parser().format_help()
    assert "--share_groups" in text and "--mmlu_split" in text and "--activation_checkpointing" in text


@pytest.mark.parametrize(
    "words",
    [
        *("--learning_rate nan", "--learning_rate inf", "--learning_rate -1e-5", "--weight_decay inf"),
        *("--adam_epsilon 0", "--adam_beta1 1", "--adam_beta2 -0.1", "--max_grad_norm nan", "--warmup_steps -1"),
        *("--seed -1", "--seed 4294967296", "--data_seed 1e30", "--max_steps -2", "--max_steps 1e30"),
        *("--per_device_train_batch_size 0", "--gradient_accumulation_steps -4", "--num_train_epochs nan"),
        *("--save_steps -5", "--logging_steps inf", "--label_smoothing_factor 1", "--neftune_noise_alpha nan"),
        *("--lora_alpha 0", "--lora_alpha nan", "--lora_dropout 1", "--max_memory_MB 0", "--top_p 0", "--top_p nan"),
        *("--temperature -1", "--max_new_tokens 0", "--num_beams 0", "--eval_dataset_size nan"),
        *("--similarity_threshold nan", "--eval_dataset_size inf", "--repetition_penalty inf"),
    ],
)
def test_numbers_out_of_range_are_refused(words: str) -> None:
    flag, value = words.split()
    with pytest.raises(UserError, match=rf"{flag}\S*: found '{value}'; need a .*number") as caught:
        parse([flag, value])
    assert "\n" not in str(caught.value)
