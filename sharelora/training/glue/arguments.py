"""Every flag of the GLUE job: LoRA's with its defaults, today's names, the sharing flags, and the methods."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from sharelora.flags.adapter import AdapterSettings
from sharelora.flags.fields import add_fields, take
from sharelora.flags.grouping import add_auto_flags
from sharelora.flags.parser import Parser, tiny_environment
from sharelora.flags.sharing import adapter_settings, add_share_flags
from sharelora.flags.upstream import modernise
from sharelora.support.errors import UserError
from sharelora.training.arguments import CONFIG, given_fields, with_config
from sharelora.training.arguments import WITHOUT_FLAG as DECIDED
from sharelora.training.glue.choice import choose_method, with_sharing
from sharelora.training.glue.methods import BuildSettings, Method
from sharelora.training.glue.options import DataArguments, MethodArguments, ModelArguments
from sharelora.training.glue.renames import RULES
from sharelora.training.options import RunArguments

NAME = "run_glue_share.py"
# What is otherwise than in today's Trainer and in LoRA's script.
DEFAULTS: Mapping[str, Any] = {
    "output_dir": "./output",
    # Query and value; what they are called depends on the model.
    "lora_modules": None,
    "lora_r": 8,
    "lora_alpha": 16,
    # The method's own.
    "learning_rate": None,
    "do_train": None,
    "do_eval": None,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    # A share of all updates.
    "logging_steps": 0.02,
    "logging_nan_inf_filter": False,
    "train_sampling_strategy": "group_by_length",
    "report_to": "none",
    "disable_tqdm": True,
}
WITHOUT_FLAG = (DECIDED - {"data_seed"}) | {"load_best_model_at_end", "metric_for_best_model", "greater_is_better"}
ALIASES = {
    "activation_checkpointing": ("gradient_checkpointing",),
    "activation_checkpointing_kwargs": ("gradient_checkpointing_kwargs",),
    "lora_path": ("adapter",),
    "share_groups": ("share_layers",),
}
# What --tiny changes where the command line says nothing.
TINY_DEFAULTS: Mapping[str, Any] = {
    "max_seq_length": 64,
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.06,
}
# A small model needs larger steps.
TINY_RATE = 5.0


@dataclass(frozen=True)
class GlueArguments:
    """A parsed command line.

    Attributes:
        model, data, how, run: the flags by what they are about.
        method: what is trained, unless an adapter that is given says otherwise.
        train: the Trainer's settings, by their present names.
        adapter_settings: what is adapted and shared, the method's sharing among it.
        flags: all flags as parsed, with the sharing that the method stands for.
        given: the flags that the command line or the configuration file has, without dashes.
        notices: what was renamed, dropped or decided, one line each.
    """

    model: ModelArguments
    data: DataArguments
    how: MethodArguments
    run: RunArguments
    method: Method
    train: dict[str, Any]
    adapter_settings: AdapterSettings
    flags: argparse.Namespace
    given: frozenset[str]
    notices: tuple[str, ...]

    @property
    def output_dir(self) -> Path:
        """Where everything goes."""
        return Path(self.train["output_dir"]).expanduser()

    @property
    def tiny_base(self) -> bool:
        """Whether the encoder is the one that the project makes itself."""
        return self.run.tiny and self.model.model_name_or_path is None

    @property
    def build_settings(self) -> BuildSettings:
        """What a method is built with."""
        return BuildSettings(self.adapter_settings, self.how.adapter_size, self.how.prefix_length)

    def to_json(self) -> dict[str, Any]:
        """Return every setting by its flag's name; no token is among them."""
        return {name: value for name, value in sorted(vars(self.flags).items()) if not name.endswith("token")}


def build_parser() -> Parser:
    """Return the parser with every flag; renamed ones are handled before it (`sharelora.training.glue.renames`)."""
    parser = Parser(NAME, "Tune an encoder on a GLUE task or own files with shared low-rank adapters, or a baseline.")
    parser.add_argument(CONFIG, metavar="FILE", help="YAML file of flags without dashes; the command line wins over it")
    add_fields(parser, ModelArguments, "model", aliases=ALIASES)
    add_fields(parser, DataArguments, "data", aliases=ALIASES)
    add_fields(parser, MethodArguments, "method")
    add_share_flags(parser)
    add_auto_flags(parser)
    add_fields(parser, RunArguments, "run")
    add_fields(parser, TrainingArguments, "training (transformers)", skip=WITHOUT_FLAG, aliases=ALIASES)
    parser.set_defaults(**DEFAULTS)
    return parser


def parse(argv: Sequence[str] | None = None) -> GlueArguments:
    """Read the command line; None means the process's own. A single JSON file stands for its settings.

    Raises:
        UserError: an unknown, refused or malformed flag, here or in the configuration file, or flags that contradict
            each other.
    """
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) == 1 and words[0].endswith(".json"):
        words = [CONFIG, *words]
    words, notices = modernise(with_config(words, parser, RULES), parser.flags, RULES)
    flags = parser.parse(words)
    if flags.tiny or tiny_environment():
        parser.set_defaults(**TINY_DEFAULTS)
        flags = parser.parse([*words, "--tiny", "true"])
    given = given_fields(words, ALIASES)
    return _arguments(flags, given, notices)


def _arguments(flags: argparse.Namespace, given: frozenset[str], notices: list[str]) -> GlueArguments:
    method = choose_method(flags, given)
    flags = with_sharing(flags, method)
    notices = [*notices, *_decide(flags, method)]
    names = {field.name for field in fields(TrainingArguments)} - WITHOUT_FLAG
    return GlueArguments(
        model=take(ModelArguments, flags),
        data=take(DataArguments, flags),
        how=take(MethodArguments, flags),
        run=take(RunArguments, flags),
        method=method,
        train={name: getattr(flags, name) for name in sorted(names)},
        adapter_settings=adapter_settings(flags, measures=True),
        flags=flags,
        given=given,
        notices=tuple(notices),
    )


def _decide(flags: argparse.Namespace, method: Method) -> list[str]:
    """Fill in what depends on other flags, and say so."""
    notices = []
    if flags.do_train is None:
        # LoRA's script does only what it is told. Told nothing, it is not asked to do nothing.
        flags.do_train = not (flags.do_eval or flags.do_predict or flags.lora_path)
        if not flags.do_train:
            notices.append("without --do_train nothing is trained")
    if flags.do_eval is None:
        flags.do_eval = flags.do_train or not flags.do_predict
    if not flags.do_eval:
        flags.eval_strategy = "no"
    if flags.learning_rate is None:
        flags.learning_rate = method.learning_rate * (TINY_RATE if flags.tiny else 1.0)
        if flags.do_train:
            notices.append(f"learning rate {flags.learning_rate:g}, the default of {method.name}")
    if flags.selection_metric and flags.eval_strategy == "no":
        raise UserError("found --selection_metric without evaluations during training; need some; use --eval_strategy")
    return notices
