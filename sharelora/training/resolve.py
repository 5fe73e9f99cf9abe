"""The door: from a parsed command line to a run of which everything is decided, before anything large is loaded."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharelora.evaluation.subject import data_root
from sharelora.flags.parser import NO_ADAPTER
from sharelora.support.errors import UserError
from sharelora.support.lock import Lock
from sharelora.trainer.devices import choose_precision, on_gpu
from sharelora.trainer.unsupported import refuse_engine
from sharelora.training.arguments import Arguments
from sharelora.training.capacity import require_capacity
from sharelora.training.job import Job
from sharelora.training.model import base_name
from sharelora.training.output import open_folder, resume_point
from sharelora.training.run import Run
from sharelora.tuner.quantization import has_bitsandbytes

logger = logging.getLogger(__name__)


def resolve(job: Job[Any, Any], args: Arguments, lock: Lock, workspace: Path) -> tuple[Run[Any], Any]:
    """Decide everything about a run, and find out what can be known to fail.

    Args:
        job: the task.
        args: its command line.
        lock: keeps other runs out of the output folder from now on.
        workspace: an empty folder that lasts as long as the run.

    Returns:
        The run, and the rows that the task reads before it loads a model.

    Raises:
        UserError: the first thing that would fail, and what to do about it.
    """
    train = args.train
    precision = choose_precision(
        args.bits, train["bf16"], train["fp16"], args.full, bool(train["do_train"]), on_gpu(train["use_cpu"])
    )
    if args.bits < 16 and not has_bitsandbytes():
        raise UserError(
            f"found --bits {args.bits}; need bitsandbytes, which is not installed; install it or use --bits 16"
        )
    job.check(args)
    training, resume, trained = _what_to_do(job, args, lock)
    if not training:
        refuse_engine(replace(job.engine(args), train={**train, "do_train": False}))
    base = job.locate_base(args, trained)
    run = Run(
        args=args,
        adapter=job.adapter(args, base, trained if training and not args.full else None),
        precision=precision,
        training=training,
        resume=resume,
        trained=trained,
        base=base,
        base_name=base_name(args, base),
        data_root=data_root(None, args.run.tiny),
        workspace=workspace,
    )
    rows = job.read(run)
    if training or args.run.dry_run:
        run = run if args.full else job.group(run)
        run = replace(run, outlook=job.foresee(run, rows))
        if run.outlook is not None:
            require_capacity(run.outlook, args.run.ignore_memory)
    return run, rows


def _what_to_do(job: Job[Any, Any], args: Arguments, lock: Lock) -> tuple[bool, Path | None, Path | None]:
    """Whether to train, from which checkpoint, and which adapter or model to start from or to evaluate."""
    folder, training, source = args.output_dir, bool(args.train["do_train"]), args.start
    earlier = open_folder(
        folder,
        job.deciding(args),
        training,
        lock,
        overwrite=args.run.overwrite_output_dir,
        anyway=args.run.resume_anyway,
        writes=not args.run.dry_run,
        adapter_flag=job.adapter_flag,
    )
    if earlier.trained is not None and (training or source is None):
        if training:
            logger.info("%s is finished: nothing is trained again, %s is used", folder, earlier.trained)
        return False, None, earlier.trained
    trained = None if source in (None, NO_ADAPTER) else job.resolve_adapter(str(source))
    if training:
        return True, resume_point(folder, args.train["resume_from_checkpoint"], earlier), trained
    if source is None and earlier.checkpoint is not None:
        raise UserError(
            f"{folder} holds an unfinished run and nothing is to be trained; pass {job.adapter_flag} "
            f"{earlier.checkpoint} to use its last checkpoint, or {job.bare} for the base model"
        )
    if source is None:
        logger.info("no adapter is given, so this is the base model")
    return False, None, trained
