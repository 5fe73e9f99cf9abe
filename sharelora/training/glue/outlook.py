"""What a run would train and what it takes, from the model's shapes alone."""

from __future__ import annotations

import logging
from typing import Any

import torch

from sharelora.memory.advice import Names
from sharelora.models.known import meta_classifier
from sharelora.trainer.devices import on_gpu
from sharelora.training.capacity import Outlook, known_optimizer, look_at, require_capacity
from sharelora.training.glue.arguments import GlueArguments
from sharelora.training.glue.base import Base, encoder_config, sequence_length
from sharelora.training.glue.data import TaskRows
from sharelora.training.glue.head import head_modules
from sharelora.training.glue.methods import BuildSettings, Method
from sharelora.training.glue.model import Counts, build, count
from sharelora.training.glue.session import complete_adapter
from sharelora.training.glue.start import Start

logger = logging.getLogger(__name__)

NAMES = Names("per_device_train_batch_size", "gradient_accumulation_steps", ("max_seq_length",), bits=False)


def look_ahead(args: GlueArguments, place: str, rows: TaskRows, start: Start | None) -> Outlook | None:
    """Say what would be trained: the plan, counts with and without head, and the memory that low-rank adapters take.

    Returns:
        The outlook; None for what the estimate does not cover: other methods, and adapters that bring a plan.

    Raises:
        UserError: flags that do not fit the model, or not enough memory on this machine.
    """
    config = encoder_config(args, place, rows.task)
    length, method = sequence_length(args, config), start.method if start else args.method
    sizes = ", ".join(f"{len(part):,} {split}" for split, part in rows.splits.items())
    logger.info("task %s from %s: %s rows", rows.task.name, rows.origin, sizes)
    if start is not None:
        logger.info("starts from %s (%s), whose plan is its own", start.source, method.name)
    elif method.sharing is not None:
        return _show_plan(args, config, length)
    else:
        logger.info("%s", _counts(config, method, args.build_settings))
    return None


def _counts(config: Any, method: Method, settings: BuildSettings) -> Counts:
    model = meta_classifier(config)
    with torch.device("meta"):
        base = Base(model, head_modules(model), False, "")
        return count(build(base, method, settings), base.head)


def _show_plan(args: GlueArguments, config: Any, length: int) -> Outlook:
    model, train = meta_classifier(config), args.train
    adapter = complete_adapter(args.adapter_settings, config)
    settings = {
        "bits": 32,
        "dtype": "bf16" if train["bf16"] else "fp16" if train["fp16"] else "fp32",
        "batch": train["per_device_train_batch_size"],
        "tokens": length,
        "optimizer": known_optimizer(train),
        "checkpointing": train["activation_checkpointing"],
        "lora_dropout": adapter.dropout,
        "device": "cuda" if on_gpu(train["use_cpu"]) else "cpu",
    }
    found = look_at(
        model,
        adapter,
        {"max_seq_length": args.flags.max_seq_length},
        settings,
        train["gradient_accumulation_steps"],
        NAMES,
        args.output_dir,
    )
    head = sum(value.numel() for path in head_modules(model) for value in model.get_submodule(path).parameters())
    total = sum(value.numel() for value in model.parameters()) + found.plan.num_parameters
    logger.info("%s\n\n%s", found.plan.table(), Counts(found.plan.num_parameters, head, total))
    logger.info("%s\n%s", found.need.table(), found.need.verdict(found.there))
    require_capacity(found, args.run.ignore_memory)
    return found
