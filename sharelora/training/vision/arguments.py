"""Every flag of this job: LLaVA's names for its data, the Trainer's own names, and the sharing flags."""

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
from sharelora.support.errors import UserError
from sharelora.training import arguments as common
from sharelora.training.arguments import ALIASES, CONFIG, WITHOUT_FLAG, Arguments, given_fields, with_config
from sharelora.training.options import GenerationArguments, MmluArguments, ModelArguments, RunArguments
from sharelora.training.vision.options import VisionOptions

# The second ShareLoRA paper's settings for LLaVA-1.5-7B; what it does not say is as in the main job.
DEFAULTS: Mapping[str, Any] = {
    **common.DEFAULTS,
    "output_dir": "./llava_output",
    "model_name_or_path": "llava-hf/llava-1.5-7b-hf",
    "bits": 16,
    "lora_r": 64,
    "lora_alpha": 128,
    "lora_dropout": 0.05,
    "num_train_epochs": 1,
    "max_steps": -1,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 64,
    "optim": "adamw_torch",
    "max_grad_norm": 1.0,
    "similarity_texts": 128,
    # What has no flag: adapters and the projector are what is trained, and no code of others is run.
    "full_finetune": False,
    "trust_remote_code": False,
}
_NO_FLAG = ("full_finetune", "trust_remote_code")
# What --tiny changes where the command line says nothing.
TINY_DEFAULTS: Mapping[str, Any] = {
    "bits": 32,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "activation_checkpointing": False,
    "max_steps": 120,
    "learning_rate": 2e-3,
    "do_eval": True,
    "eval_strategy": "steps",
    "eval_steps": 60,
    "save_steps": 60,
    "eval_dataset_size": 64,
    "model_max_length": 512,
}


@dataclass(frozen=True)
class VisionArguments(Arguments):
    """A parsed command line of this job.

    Attributes:
        vision: the data and how it is read.
    """

    vision: VisionOptions


def build_parser() -> Parser:
    """Return the parser with every flag."""
    parser = Parser("llava_share.py", "Tune LLaVA, or a model like it, on conversations about images.")
    parser.add_argument(CONFIG, metavar="FILE", help="YAML file of flags without dashes; the command line wins over it")
    add_fields(parser, VisionOptions, "data")
    add_fields(parser, ModelArguments, "model", skip=_NO_FLAG, aliases=ALIASES)
    add_share_flags(parser)
    add_auto_flags(parser)
    add_fields(parser, RunArguments, "run")
    add_fields(parser, TrainingArguments, "training (transformers)", skip=WITHOUT_FLAG, aliases=ALIASES)
    parser.set_defaults(**DEFAULTS)
    return parser


def parse(argv: Sequence[str] | None = None) -> VisionArguments:
    """Read the command line; None means the process's own.

    Raises:
        UserError: an unknown, refused or malformed flag, here or in the configuration file; or no data.
    """
    parser = build_parser()
    words, notices = modernise(with_config(list(sys.argv[1:] if argv is None else argv), parser), parser.flags)
    flags = parser.parse(words)
    if flags.tiny or tiny_environment():
        parser.set_defaults(**TINY_DEFAULTS)
        flags = parser.parse([*words, "--tiny", "true"])
    given = given_fields(words, ALIASES)
    if flags.adapter is not None and "do_train" not in given:
        flags.do_train = False
        notices = [*notices, "an adapter is given, so nothing is trained; --do_train goes on training it"]
    if flags.data_path is None and not flags.tiny:
        raise UserError("found no --data_path; need rows in LLaVA's json; pass --data_path FILE, or add --tiny")
    return _arguments(flags, given, notices)


def _arguments(flags: argparse.Namespace, given: frozenset[str], notices: list[str]) -> VisionArguments:
    names = {field.name for field in fields(TrainingArguments)} - WITHOUT_FLAG
    options = take(VisionOptions, flags)
    return VisionArguments(
        model=take(ModelArguments, flags),
        # What the general parts of a job ask about its data: the order's seed, and the tokens of a row.
        data=DataArguments(data_seed=options.data_seed, source_max_len=options.model_max_length - 1, target_max_len=1),
        mmlu=MmluArguments(),
        generation=GenerationArguments(),
        run=take(RunArguments, flags),
        train={name: getattr(flags, name) for name in sorted(names)},
        adapter_settings=adapter_settings(flags, measures=True),
        flags=flags,
        given=given,
        notices=tuple(notices),
        vision=options,
    )
