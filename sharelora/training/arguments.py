"""Every flag of the main job: QLoRA's with its defaults, today's names, the sharing flags, and a few of our own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from sharelora.data import DataArguments
from sharelora.flags.adapter import AdapterSettings
from sharelora.flags.fields import add_fields, take
from sharelora.flags.grouping import add_auto_flags
from sharelora.flags.parser import Parser, tiny_environment, unknown_flag
from sharelora.flags.sharing import adapter_settings, add_share_flags
from sharelora.flags.upstream import RULES, Rule, modernise
from sharelora.support.errors import UserError
from sharelora.training.options import GenerationArguments, MmluArguments, ModelArguments, RunArguments

CONFIG = "--config"

# The Trainer's settings whose defaults QLoRA changes (its qlora.py), then those that are changed here.
DEFAULTS: Mapping[str, Any] = {
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
    "report_to": "none",
    # The loss before the first update is what everything after it is compared with.
    "eval_on_start": True,
    # A loss that is no number is said, not replaced by an earlier one.
    "logging_nan_inf_filter": False,
    # One line per logged step stands in for the bars.
    "disable_tqdm": True,
}
# Decided by the job, or another thing among these flags.
WITHOUT_FLAG = {
    "bf16_full_eval",
    "data_seed",
    "fp16_full_eval",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "include_num_input_tokens_seen",
    "local_rank",
    "parallelism_config",
    "prediction_loss_only",
    "remove_unused_columns",
    "trackio_static_space_id",
    "use_cache",
}
ALIASES = {
    "activation_checkpointing": ("gradient_checkpointing",),
    "activation_checkpointing_kwargs": ("gradient_checkpointing_kwargs",),
    "adapter": ("checkpoint",),
    "share_groups": ("share_layers",),
}
# What --tiny changes where the command line says nothing.
TINY_DEFAULTS: Mapping[str, Any] = {
    "bits": 32,
    "optim": "adamw_torch",
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "activation_checkpointing": False,
    "max_steps": 160,
    "learning_rate": 4e-3,
    "do_eval": True,
    "eval_strategy": "steps",
    "eval_steps": 80,
    "save_steps": 80,
    "eval_dataset_size": 64,
    "max_eval_samples": 64,
    "mmlu_dataset": "mmlu-zs",
}


@dataclass(frozen=True)
class Arguments:
    """A parsed command line.

    Attributes:
        model, data, mmlu, generation, run: the flags by what they are about.
        train: the Trainer's settings, by their present names.
        adapter_settings: what is adapted and shared.
        flags: all flags as parsed.
        given: the flags that the command line or the configuration file has, without dashes.
        notices: what was renamed, dropped or decided, one line each.
    """

    model: ModelArguments
    data: DataArguments
    mmlu: MmluArguments
    generation: GenerationArguments
    run: RunArguments
    train: dict[str, Any]
    adapter_settings: AdapterSettings
    flags: argparse.Namespace
    given: frozenset[str]
    notices: tuple[str, ...]

    @property
    def output_dir(self) -> Path:
        """Where everything goes."""
        return Path(self.train["output_dir"]).expanduser()

    def to_json(self) -> dict[str, Any]:
        """Return every setting by its flag's name; no token is among them."""
        return {name: value for name, value in sorted(vars(self.flags).items()) if not name.endswith("token")}


def build_parser() -> Parser:
    """Return the parser with every flag; renamed ones are handled before it (`sharelora.flags.upstream`)."""
    parser = Parser("qlora_share.py", "Tune a language model on instructions with shared low-rank adapters.")
    parser.add_argument(CONFIG, metavar="FILE", help="YAML file of flags without dashes; the command line wins over it")
    add_fields(parser, ModelArguments, "model", aliases=ALIASES)
    add_fields(parser, DataArguments, "data")
    add_share_flags(parser)
    add_auto_flags(parser)
    add_fields(parser, MmluArguments, "MMLU")
    add_fields(parser, GenerationArguments, "generation")
    add_fields(parser, RunArguments, "run")
    add_fields(parser, TrainingArguments, "training (transformers)", skip=WITHOUT_FLAG, aliases=ALIASES)
    parser.set_defaults(**DEFAULTS)
    return parser


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Read the command line; None means the process's own.

    Raises:
        UserError: an unknown, refused or malformed flag, here or in the configuration file.
    """
    parser = build_parser()
    words, notices = modernise(with_config(list(sys.argv[1:] if argv is None else argv), parser), parser.flags)
    flags = parser.parse(words)
    if flags.tiny or tiny_environment():
        parser.set_defaults(**TINY_DEFAULTS)
        flags = parser.parse([*words, "--tiny", "true"])
    return _arguments(flags, given_fields(words, ALIASES), notices)


def _arguments(flags: argparse.Namespace, given: frozenset[str], notices: list[str]) -> Arguments:
    if flags.adapter is not None and "do_train" not in given:
        flags.do_train = False
        notices = [*notices, "an adapter is given, so nothing is trained; --do_train goes on training it"]
    if flags.lr_scheduler_type == "constant" and "warmup_steps" in given and flags.warmup_steps:
        notices = [*notices, "the constant schedule has no warm-up, as in QLoRA; constant_with_warmup has one"]
    if not flags.do_sample and (unused := sorted(given & {"temperature", "top_k", "top_p", "typical_p"})):
        notices = [*notices, f"without --do_sample there is nothing to draw: {', '.join(unused)} change nothing"]
    names = {field.name for field in fields(TrainingArguments)} - WITHOUT_FLAG
    return Arguments(
        model=take(ModelArguments, flags),
        data=take(DataArguments, flags),
        mmlu=take(MmluArguments, flags),
        generation=take(GenerationArguments, flags),
        run=take(RunArguments, flags),
        train={name: getattr(flags, name) for name in sorted(names)},
        adapter_settings=adapter_settings(flags, measures=True),
        flags=flags,
        given=given,
        notices=tuple(notices),
    )


def given_fields(words: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return the fields that a command line sets, by their own names."""
    others = {other: field for field, names in aliases.items() for other in names}
    names = (word.removeprefix("--") for word in words if word.startswith("--"))
    return frozenset(others.get(name, name) for name in names)


def with_config(words: list[str], parser: Parser, rules: Mapping[str, Rule] = RULES) -> list[str]:
    """Put the words of a configuration file before those of the command line, so that the latter win.

    Args:
        words: the command line.
        parser: knows every flag.
        rules: old flags, which a file may have as well.
    """
    first = Parser(parser.prog, add_help=False)
    first.add_argument(CONFIG)
    found, _ = first.parse_known_args([word for word in words if word not in ("-h", "--help")])
    return [*config_words(Path(found.config), parser, rules), *words] if found.config else words


def config_words(path: Path, parser: Parser, rules: Mapping[str, Rule] = RULES) -> list[str]:
    """Turn a YAML file of settings into words of a command line.

    Raises:
        UserError: the file is missing or no mapping, or it has a key that is no flag; the nearest one is named.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read the configuration {path}: {reason}; check the file") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds {type(settings).__name__}; need a YAML mapping of flags to values; see --help")
    return setting_words(settings, parser, rules, path)


def setting_words(
    settings: Mapping[Any, Any], parser: Parser, rules: Mapping[str, Rule] = RULES, where: str | Path = ""
) -> list[str]:
    """Turn settings into words of a command line; a setting that is None is left out.

    Args:
        settings: flag without dashes -> value.
        parser: knows every flag.
        rules: old flags.
        where: they stand, for messages.

    Raises:
        UserError: a key that is no flag; the nearest one is named.
    """
    words: list[str] = []
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if f"--{name}" not in parser.flags and name not in rules:
            raise UserError(f"{where}: {unknown_flag(name, parser.flags)}")
        words += [f"--{name}", *_values(value)] if value is not None else []
    return words


def _values(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [json.dumps(value)]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
