"""Every flag of this job: those of LoRA's `gpt2_ft.py` beside the Trainer's own names, and the sharing flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from transformers import TrainingArguments

from sharelora.data import DataArguments
from sharelora.flags.fields import add_fields, take
from sharelora.flags.grouping import add_auto_flags
from sharelora.flags.parser import Parser, tiny_environment
from sharelora.flags.sharing import adapter_settings, add_share_flags
from sharelora.flags.upstream import modernise
from sharelora.models.known import MODEL_CARDS
from sharelora.support.errors import UserError
from sharelora.training import arguments as common
from sharelora.training.arguments import CONFIG, Arguments, given_fields, with_config
from sharelora.training.nlg.options import NlgOptions
from sharelora.training.nlg.renames import RULES
from sharelora.training.nlg.schedule import read_cycle
from sharelora.training.options import GenerationArguments, MmluArguments, ModelArguments, RunArguments

C_ATTN = "c_attn"  # GPT-2's query, key and value in one
QUERY_AND_VALUE = f"{C_ATTN}=1,0,1"

# Settings of the Trainer and of the adapter: LoRA's defaults, then those that are decided here.
DEFAULTS: Mapping[str, Any] = {
    "output_dir": "./gpt2_model",
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 4,
    "max_grad_norm": 0.0,
    "logging_steps": 100,
    "eval_steps": 2000,
    "save_steps": 500,
    "learning_rate": 1e-5,
    "weight_decay": 0.01,
    "adam_epsilon": 1e-6,
    "adam_beta2": 0.98,
    "seed": 10,
    "lora_alpha": 128,
    # LoRA's default rank is 0, which tunes everything; its recipe has 4, and 5 epochs.
    "lora_r": 4,
    "num_train_epochs": 5,
    "lora_modules": C_ATTN,
    "enable_lora": QUERY_AND_VALUE,
    "model_name_or_path": None,
    "bits": 32,
    "do_train": True,
    "do_eval": True,
    "eval_strategy": "steps",
    "eval_on_start": True,
    "save_strategy": "steps",
    "save_total_limit": 5,
    "report_to": "none",
    "logging_nan_inf_filter": False,
    "disable_tqdm": True,
    "activation_checkpointing": False,
    "train_sampling_strategy": "random",
    # What has no flag: the optimizer and the schedule are those of this job.
    "optim": "adamw_torch",
    "optim_args": None,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
    "double_quant": True,
    "quant_type": "nf4",
    "max_memory_MB": 80000,
}
WITHOUT_FLAG = {*common.WITHOUT_FLAG, "optim", "optim_args", "lr_scheduler_type", "lr_scheduler_kwargs"}
# LoRA's names of the same things.
ALIASES: Mapping[str, tuple[str, ...]] = {
    **common.ALIASES,
    "output_dir": ("work_dir",),
    "per_device_train_batch_size": ("train_batch_size",),
    "per_device_eval_batch_size": ("valid_batch_size",),
    "gradient_accumulation_steps": ("grad_acc",),
    "max_grad_norm": ("clip",),
    "logging_steps": ("log_interval",),
    "eval_steps": ("eval_interval",),
    "save_steps": ("save_interval",),
    "learning_rate": ("lr",),
    "adam_epsilon": ("adam_epislon",),
    "max_steps": ("max_step",),
    "num_train_epochs": ("max_epoch",),
    "warmup_steps": ("warmup_step",),
    "label_smoothing_factor": ("label_smooth",),
    "seed": ("random_seed",),
    "model_name_or_path": ("init_checkpoint",),
    "scheduler": ("lr_scheduler_type",),
}
# What --tiny changes where the command line says nothing.
TINY_DEFAULTS: Mapping[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "max_steps": 120,
    "warmup_steps": 10,
    "learning_rate": 4e-3,
    "lora_alpha": 32,
    "correct_bias": True,
    "logging_steps": 20,
    "eval_steps": 60,
    "save_steps": 60,
}
_PICKLED = (".bin", ".pt", ".pth")


@dataclass(frozen=True)
class NlgArguments(Arguments):
    """A parsed command line of this job.

    Attributes:
        nlg: data, objective and schedule.
    """

    nlg: NlgOptions


def build_parser() -> Parser:
    """Return the parser with every flag."""
    parser = Parser("gpt2_share_ft.py", "Tune GPT-2 on E2E, WebNLG or DART with shared low-rank adapters.")
    parser.add_argument(CONFIG, metavar="FILE", help="YAML file of flags without dashes; the command line wins over it")
    add_fields(parser, NlgOptions, "data and objective", aliases=ALIASES)
    quantised = ("double_quant", "quant_type", "max_memory_MB")
    add_fields(parser, ModelArguments, "model", skip=quantised, aliases=ALIASES)
    add_share_flags(parser)
    add_auto_flags(parser)
    add_fields(parser, RunArguments, "run")
    add_fields(parser, TrainingArguments, "training (transformers)", skip=WITHOUT_FLAG, aliases=ALIASES)
    parser.set_defaults(**DEFAULTS)
    return parser


def parse(argv: Sequence[str] | None = None) -> NlgArguments:
    """Read the command line; None means the process's own.

    Raises:
        UserError: an unknown, refused or malformed flag, here or in the configuration file.
    """
    parser = build_parser()
    words = with_config(list(sys.argv[1:] if argv is None else argv), parser, RULES)
    words, notices = modernise(words, parser.flags, RULES)
    flags = parser.parse(words)
    given = given_fields(words, ALIASES)
    if flags.tiny or tiny_environment():
        # Epochs that were asked for are done; the number of updates would decide otherwise.
        whole = {"max_steps": -1} if "num_train_epochs" in given else {}
        parser.set_defaults(**{**TINY_DEFAULTS, **whole})
        flags = parser.parse([*words, "--tiny", "true"])
    notices += _settle(flags, given)
    return _arguments(flags, given, notices)


def _settle(flags: argparse.Namespace, given: frozenset[str]) -> list[str]:
    """Decide what flags mean together; what was decided is said."""
    notices = []
    _check_numbers(flags)
    if flags.model_name_or_path is None:
        flags.model_name_or_path = MODEL_CARDS[flags.model_card]
    if str(flags.model_name_or_path).endswith(_PICKLED):
        raise UserError(
            f"found the pickled weights {flags.model_name_or_path}, which can run code when loaded; need a folder with "
            "model.safetensors, or an id of the hub; leave out --init_checkpoint to take --model_card"
        )
    adapted = {name.strip() for name in str(flags.lora_modules).split(",")}
    if "enable_lora" not in given and not adapted & {C_ATTN, "all", "all-linear"}:
        flags.enable_lora = None
    if flags.adapter is not None and "do_train" not in given:
        flags.do_train = False
        notices.append("an adapter is given, so nothing is trained; --do_train goes on training it")
    if flags.scheduler == "cycle":
        flags.max_steps = read_cycle(flags.i_steps, flags.i_lrs)[-1][0]
        notices.append(f"the scheduler cycle ends with its last corner: --max_step {flags.max_steps}")
    elif {"max_steps", "num_train_epochs"} <= given and flags.max_steps > 0:
        notices.append(f"found --max_step and --max_epoch; {flags.max_steps} updates are done, whatever the epochs")
    return notices


def _check_numbers(flags: argparse.Namespace) -> None:
    for name in ("train_batch_size", "valid_batch_size", "grad_acc"):
        value = getattr(flags, next(field for field, names in ALIASES.items() if name in names))
        if value < 1:
            raise UserError(f"found --{name} {value}; need at least 1; change it")
    if not 0 <= flags.label_smoothing_factor < 1:
        raise UserError(
            f"found --label_smooth {flags.label_smoothing_factor}; need at least 0 and less than 1; change it"
        )


def _arguments(flags: argparse.Namespace, given: frozenset[str], notices: list[str]) -> NlgArguments:
    names = {field.name for field in fields(TrainingArguments)} - common.WITHOUT_FLAG
    options = take(NlgOptions, flags)
    return NlgArguments(
        model=take(ModelArguments, flags),
        # What the general parts of a job ask about its data: the order's seed, and the tokens of a row.
        data=DataArguments(data_seed=flags.seed, source_max_len=options.seq_len - 1, target_max_len=1),
        mmlu=MmluArguments(),
        generation=GenerationArguments(),
        run=take(RunArguments, flags),
        train={name: getattr(flags, name) for name in sorted(names)},
        adapter_settings=adapter_settings(flags, measures=True),
        flags=flags,
        given=given,
        notices=tuple(notices),
        nlg=options,
    )
