"""What a run would train and what it takes, from the model's shapes alone."""

from __future__ import annotations

import logging
from argparse import Namespace
from typing import Any

import torch

from sharelora.architectures import meta_classifier
from sharelora.errors import UserError
from sharelora.machine import machine
from sharelora.memory import FACTORED, STATES, estimate
from sharelora.share_flags import plan_from
from sharelora.training.glue.arguments import GlueArguments
from sharelora.training.glue.base import Base, encoder_config, sequence_length
from sharelora.training.glue.data import TaskRows
from sharelora.training.glue.head import head_modules
from sharelora.training.glue.methods import Method
from sharelora.training.glue.model import Counts, build, count
from sharelora.training.glue.session import complete_flags
from sharelora.training.glue.start import Start
from sharelora.training.machine import choose_optimizer, on_gpu, processes

logger = logging.getLogger(__name__)


def look_ahead(args: GlueArguments, place: str, rows: TaskRows, start: Start | None) -> None:
    """Say what would be trained: the plan, counts with and without head, and the memory that low-rank adapters take.

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
        _show_plan(args, config, length)
    else:
        logger.info("%s", _counts(config, method, args.flags))


def _counts(config: Any, method: Method, flags: Namespace) -> Counts:
    model = meta_classifier(config)
    with torch.device("meta"):
        base = Base(model, head_modules(model), False, "")
        return count(build(base, method, flags), base.head)


def _show_plan(args: GlueArguments, config: Any, length: int) -> None:
    model = meta_classifier(config)
    flags = complete_flags(args.flags, config)
    plan = plan_from(flags, model)
    head = sum(value.numel() for path in head_modules(model) for value in model.get_submodule(path).parameters())
    total = sum(value.numel() for value in model.parameters()) + plan.num_parameters
    logger.info("%s\n\n%s", plan.table(), Counts(plan.num_parameters, head, total))
    use_cpu = args.train["use_cpu"]
    optimizer, _ = choose_optimizer(args.train["optim"], use_cpu)
    need = estimate(
        model,
        plan,
        bits=32,
        dtype="bf16" if args.train["bf16"] else "fp16" if args.train["fp16"] else "fp32",
        batch=args.train["per_device_train_batch_size"],
        tokens=length,
        optimizer=optimizer if optimizer in (*STATES, FACTORED) else "adamw_torch",
        checkpointing=args.train["activation_checkpointing"],
        lora_dropout=flags.lora_dropout,
        device="cuda" if on_gpu(use_cpu) else "cpu",
    )
    there = machine(args.output_dir)
    logger.info("%s\n%s", need.table(), need.verdict(there))
    # With several processes each has its own share of the machine, which one process cannot know.
    if not (need.fits(there) or args.run.ignore_memory or processes() > 1):
        raise UserError(
            f"this run {need.verdict(there)}; lower --per_device_train_batch_size or --max_seq_length, name a smaller "
            "--model_name_or_path, add --tiny, or pass --ignore_memory to try all the same"
        )
