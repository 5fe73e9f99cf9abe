"""A configuration file as people write it: every value reaches its flag as it is written there, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sharelora.flags.settings_file import Plain, read_settings, setting_words, typed
from sharelora.support.errors import UserError
from sharelora.training.instructions.job import build_parser, parse
from sharelora.training.output import Earlier, resume_point

# What a file says -> what its flags are.
READ: dict[str, dict[str, Any]] = {
    "eval_strategy: no": {"eval_strategy": "no"},
    "save_strategy: off": {"save_strategy": "no"},
    "logging_strategy: No": {"logging_strategy": "no"},
    "evaluation_strategy: false": {"eval_strategy": "no"},
    "report_to: off": {"report_to": "none"},
    "bf16: yes\ntf32: on\nfp16: off\ndo_eval: 'true'": {"bf16": True, "tf32": True, "fp16": False, "do_eval": True},
    "learning_rate: 1e-5": {"learning_rate": 1e-5},
    "learning_rate: 2.0e-4": {"learning_rate": 2e-4},
    "learning_rate: '3e-4'": {"learning_rate": 3e-4},
    "length_penalty: -1e-5": {"length_penalty": -1e-5},
    "lora_alpha: 32\nmax_grad_norm: 1\nwarmup_steps: 10\nlr_scheduler_type: linear": {
        "lora_alpha": 32.0,
        "max_grad_norm": 1.0,
        "warmup_steps": 10.0,
    },
    "max_steps: 1e3\nseed: 010\nlora_r: 8.0\nmax_memory_MB: 80_000": {
        "max_steps": 1000,
        "seed": 10,
        "lora_r": 8,
        "max_memory_MB": 80000,
    },
    "run_name: 2026-01-31": {"run_name": "2026-01-31"},
    "run_name: 12:30:45": {"run_name": "12:30:45"},
    "run_name: 1.10": {"run_name": "1.10"},
    "run_name: null\nadapter: ~\ndataset:\noptim: Null": {
        "run_name": None,
        "adapter": None,
        "dataset": "alpaca",
        "optim": "paged_adamw_32bit",
    },
    "run_name: 'null'": {"run_name": "null"},
    "lora_modules: [q_proj, v_proj]": {"lora_modules": "q_proj,v_proj"},
    "lora_modules:\n- q_proj\n- v_proj\nshare_modules: [q_proj]": {
        "lora_modules": "q_proj,v_proj",
        "share_modules": "q_proj",
    },
    "lora_modules: [all]": {"lora_modules": "all"},
    "share_groups: [[0, 1], [2, 3]]": {"share_groups": "0,1;2,3"},
    "share_groups: [0-3, 4-7]": {"share_groups": "0-3,4-7"},
    "share_layers: [0, 1]": {"share_groups": "0,1"},
    "enable_lora: {c_attn: [1, 0, 1]}": {"enable_lora": "c_attn=1,0,1"},
    "report_to: [tensorboard, wandb]": {"report_to": "tensorboard,wandb"},
    "label_names: [labels]\ninclude_for_metrics: [inputs, loss]": {
        "label_names": ["labels"],
        "include_for_metrics": ["inputs", "loss"],
    },
    "optim_args: {eps: 1e-8, momentum: 0.9}": {"optim_args": "eps=1e-8,momentum=0.9"},
    "resume_from_checkpoint: no\nsave_safetensors: yes": {"resume_from_checkpoint": "no"},
    "gradient-checkpointing: off": {"activation_checkpointing": False},
    "lora_r: &r 8\nlora_alpha: *r": {"lora_r": 8, "lora_alpha": 8.0},
    "\ufefflora_r: 7  # a mark that Windows editors write": {"lora_r": 7},
}
# What a file says -> what is said about it.
REFUSED = {
    "lora_r: 8\nbf16: true\nlora_r: 16": "run.yaml: found lora_r twice, in lines 1 and 3; need every setting once",
    "lora_r: 8\naccelerator_config: {a: 1, a: 2}": "found a twice, in lines 2 and 2",
    "gradient_checkpointing: on\nactivation-checkpointing: off": "which are one flag; need it once",
    "evaluation_strategy: steps\neval_strategy: epoch": "run.yaml: found evaluation_strategy and eval_strategy, which",
    "optim: adamw_torch\nadafactor: true": "found optim and adafactor, which are one flag",
    "adam8bit: true\nadafactor: true": "found adam8bit and adafactor, which are one flag",
    "stage: sft\ntemplate: llama3\nlora_r: 8": "unknown flag stage; .*; unknown too: template",
    "config: other.yaml": "found config, another file",
    "learning_rate: [1e-4, 2e-4]": r"found learning_rate \['1e-4', '2e-4'\]; need one value",
    "dataset: {path: a.json}": "found dataset .*; need one value",
    "lora_modules: []": r"found lora_modules \[\]; need one or more values",
    "lora_modules: [q_proj, null]": "need one or more values",
    "lora_modules: &a [*a]": "cannot read the configuration .*run.yaml: nested deeper than 100 levels",
    "lora_modules: [" + "[" * 5000: "cannot read the configuration .*run.yaml",
    "lora_modules: !!timestamp x": "could not determine a constructor",
    "\n".join(
        ["a0: &a0 [x]", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]
    ): "100,000 values",
    "a: &a [x]\nb: [" + "*a," * 101 + "]": "more than 100 aliases",
    f"a: {'x' * 300_000}": "has 300,003 bytes; need at most 262,144",
    "optim_args: {betas: [0.9, 0.95]}": "need one value, or a mapping of names to values",
    "lr_scheduler_kwargs: 5": "--lr_scheduler_kwargs: found '5'; need JSON",
    "lr_scheduler_kwargs: '{min_lr: 0}'": "--lr_scheduler_kwargs: found .*, which is no JSON",
    "run_name: --x": "need a value that does not begin with --",
    "eval_strategy: true": "found 'true'; need one of no, steps, epoch",
    "bf16: auto": "found 'auto'; need true or false",
    "max_steps: 1.5": "--max_steps: found '1.5'; need a whole number",
    "seed: 12:30": "found '12:30'; need a whole number",
    f"lora_r: {'1' * 5000}": "found 5,000 characters; need a whole number of at least 1",
    "lora_modules: !!python/name:os.system": "cannot read the configuration .*run.yaml: could not determine",
    "lora_r: 8\n---\nlora_r: 9": "cannot read the configuration .*: expected a single document",
    "lora_r:\t[8": "cannot read the configuration",
    "": "run.yaml is empty",
    "lora_r = 8": "run.yaml holds text; need a YAML mapping",
    "- lora_r": "run.yaml holds a list; need a YAML mapping",
}


def written(folder: Path, text: str, name: str = "run.yaml") -> str:
    """Write a file and return its name."""
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize(("text", "values"), READ.items())
def test_a_value_reaches_its_flag_as_it_is_written(tmp_path: Path, text: str, values: dict[str, Any]) -> None:
    found = parse(["--config", written(tmp_path, text)]).values
    assert {name: found[name] for name in values} == values
    assert [type(found[name]) for name in values] == [type(value) for value in values.values()]


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_what_no_flag_takes_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(["--config", written(tmp_path, text)])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_numbers_inside_a_mapping_are_numbers(tmp_path: Path) -> None:
    text = (
        "lr_scheduler_kwargs: {min_lr: 1e-6, power: .5, n: 3, big: 1E+3, off: no, text: '1e-3', none: null, of: [2.0]}"
    )
    found = parse(["--config", written(tmp_path, text)]).values["lr_scheduler_kwargs"]
    numbers = {"min_lr": 1e-6, "power": 0.5, "n": 3, "big": 1000.0, "off": False, "text": "1e-3", "none": None}
    assert json.loads(found) == {**numbers, "of": [2.0]}
    words = Plain("1.2.3"), Plain("2026-01-31"), Plain("0x10"), Plain("nan"), "7"
    assert [typed(word) for word in words] == list(words)


def test_a_mapping_nested_in_a_mapping_keeps_its_form(tmp_path: Path) -> None:
    text = "accelerator_config:\n  split_batches: true\n  even_batches: off\n"
    text += "  gradient_accumulation_kwargs:\n    num_steps: 4"
    found = parse(["--config", written(tmp_path, text)]).values["accelerator_config"]
    nested = {"gradient_accumulation_kwargs": {"num_steps": 4}}
    assert json.loads(found) == {"split_batches": True, "even_batches": False, **nested}


def test_json_is_read_as_json(tmp_path: Path) -> None:
    text = '{\n\t"lora_r": 8, "bf16": true, "learning_rate": 1e-05, "lora_modules": ["q_proj"], "adapter": null}'
    values = parse([written(tmp_path, text, "run.json")]).values
    assert (values["lora_r"], values["bf16"], values["learning_rate"]) == (8, True, 1e-5)
    assert (values["lora_modules"], values["adapter"]) == ("q_proj", None)
    with pytest.raises(UserError, match=r"run\.json: found lora_r twice"):
        parse([written(tmp_path, '{"lora_r": 8, "lora_r": 9}', "run.json")])


def test_a_mapping_may_be_written_once_and_merged(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb:\n  c: &c {<<: *a, x: 3}\nd: {<<: *c, y: 4}"
    found = read_settings(written(tmp_path, text))
    assert typed(found["b"]["c"]) == {"x": 3, "y": 2}
    assert typed(found["d"]) == {"x": 3, "y": 4}


def test_settings_of_a_program_are_words_too() -> None:
    words = setting_words({"lora_r": 4, "bf16": True, "learning_rate": 1e-5, "run_name": None}, build_parser())
    assert words == ["--lora_r", "4", "--bf16", "True", "--learning_rate", "1e-05"]


def test_an_old_flag_that_changes_nothing_is_in_nobodys_way(tmp_path: Path) -> None:
    values = parse(
        ["--config", written(tmp_path, "adafactor: false\noptim: sgd\nevaluation_strategy:\neval_steps: 4")]
    ).values
    assert (values["optim"], values["eval_steps"]) == ("sgd", 4)


@pytest.mark.parametrize("word", ["no", "off", "False"])
def test_other_words_for_false_ask_for_no_checkpoint(tmp_path: Path, word: str) -> None:
    assert resume_point(tmp_path, word, Earlier()) is None


def test_names_may_have_spaces_between_them() -> None:
    assert parse(["--lora_modules", "q_proj v_proj,k_proj , o_proj"]).adapter_settings.modules == [
        *("q_proj", "v_proj", "k_proj", "o_proj")
    ]
