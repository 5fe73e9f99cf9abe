"""The Trainer's settings of a run, and those settings that decide what is trained."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from sharelora.support.errors import UserError
from sharelora.support.reading import parse_json
from sharelora.trainer.devices import Precision, choose_optimizer, processes
from sharelora.trainer.launch import deepspeed, engine_of
from sharelora.training.arguments import Arguments

# Reporter -> the packages that it needs, any one of them.
_REPORTERS: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "comet_ml": ("comet_ml",),
    "trackio": ("trackio",),
}
# These evaluations change nothing in what is trained, unless they choose the weights that are kept.
CHOOSING = frozenset({"do_eval", "eval_delay", "eval_steps", "eval_strategy", "max_eval_samples"})
# Which checkpoints there are matters as well where the best one is kept.
CHOOSING_CHECKPOINT = CHOOSING | {
    "bos", "do_mmlu_eval", "max_mmlu_samples", "mmlu_dataset", "mmlu_source_max_len", "mmlu_split",
    "save_steps", "save_strategy", "save_total_limit",
}  # fmt: skip
# What a run does besides training, or how fast: another value trains the same adapter.
_IDLE = CHOOSING_CHECKPOINT | {
    "cache_dir",
    "config",
    "do_predict",
    "do_train",
    "dry_run",
    "eval_accumulation_steps",
    "eval_on_start",
    "ignore_memory",
    "on_nan",
    "output_dir",
    "overwrite_output_dir",
    "per_device_eval_batch_size",
    "report_to",
    "resume_anyway",
    "resume_from_checkpoint",
    "run_name",
    "trust_remote_code",
}
_IDLE_PREFIXES = ("dataloader_num", "ddp_", "disable_", "hub_", "local_", "log", "max_memory", "push_", "tiny")


def deciding_settings(args: Arguments, choosing: Collection[str] = (), idle: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings that decide what is trained; runs that agree on these train the same adapter.

    Args:
        args: the options.
        choosing: settings of evaluations that choose the weights which are kept.
        idle: further settings that change nothing in what is trained.
    """
    decide = {
        name: value
        for name, value in args.to_json().items()
        if name in choosing or not (name in _IDLE or name in idle or name.startswith(_IDLE_PREFIXES))
    }
    return {**decide, "processes": processes()}


def trainer_settings(args: Arguments, precision: Precision) -> tuple[TrainingArguments, list[str]]:
    """Build the Trainer's settings, and say what had to be chosen differently.

    Args:
        args: the options.
        precision: of the run.

    Raises:
        UserError: settings that contradict each other.
    """
    values = dict(args.train)
    without_gpu = values["use_cpu"] or not torch.accelerator.is_available()
    # With use_cpu accelerate would drop DeepSpeed, which uses CPUs by itself where there are no GPUs.
    use_cpu = without_gpu and not deepspeed(engine_of())
    values["optim"], notice = choose_optimizer(values["optim"], use_cpu)
    values.update(
        bf16=precision.autocast == "bf16",
        fp16=precision.autocast == "fp16",
        use_cpu=use_cpu,
        data_seed=args.data_seed,
        activation_checkpointing_kwargs=checkpointing(values["activation_checkpointing_kwargs"]),
        do_eval=args.evaluates,
        eval_on_start=values["eval_on_start"] and args.evaluates,
        include_num_input_tokens_seen="all" if args.packing else "non_padding",
        label_names=["labels"],
        remove_unused_columns=False,
        report_to=values["report_to"].split(","),
    )
    if values["ddp_find_unused_parameters"] is None:
        # Elsewhere the first backward proves that every one is used.
        values["ddp_find_unused_parameters"] = args.unused_weights
    if processes() > 1 and without_gpu and values["ddp_backend"] is None:
        values["ddp_backend"] = "gloo"
    try:
        return TrainingArguments(**values), [notice] if notice else []
    except ValueError as error:
        raise UserError(f"the Trainer refuses these settings: {' '.join(str(error).split())}; change them") from error


def checkpointing(text: str | None) -> dict[str, Any]:
    """Read the options of checkpointing; non-reentrant unless the user says otherwise.

    Raises:
        UserError: it is not JSON.
    """
    try:
        options = parse_json(text) if text else {}
        if not isinstance(options, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise UserError(
            f'found activation_checkpointing_kwargs {text}; need JSON such as {{"use_reentrant": false}}'
        ) from error
    return {"use_reentrant": False, **options}


def check_reporters(report_to: str) -> None:
    """Refuse to report to what is not installed.

    Raises:
        UserError: a name that transformers does not know, or a package that --report_to needs is missing.
    """
    known = ("all", "none", *INTEGRATION_TO_CALLBACK)
    for name in report_to.split(","):
        if name not in known:
            raise UserError(f"found --report_to {name}; need some of {', '.join(known)}, with commas; change it")
        packages = _REPORTERS.get(name, ())
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise UserError(f"found --report_to {name}; need the package {packages[0]}; run pip install {packages[0]}")
