"""Everything that can be known to fail, found out before anything is downloaded, loaded or written."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from sharelora.models.adapter import resolve_adapter
from sharelora.support.errors import UserError
from sharelora.trainer.devices import Precision, choose_precision, on_gpu
from sharelora.trainer.lock import Lock
from sharelora.trainer.unsupported import refuse_engine
from sharelora.training.arguments import Arguments
from sharelora.training.output import Earlier, open_folder, resume_point
from sharelora.training.settings import check_settings, deciding_settings, engine_setup
from sharelora.tuner.quantization import has_bitsandbytes

logger = logging.getLogger(__name__)

BARE = "none"  # --adapter none: the base model alone


@dataclass(frozen=True)
class Task:
    """What this run has to do.

    Attributes:
        training: train; False for a finished run, and for evaluation and prediction only.
        resume: the checkpoint to go on from.
        trained: the adapter (or full model) to start from, or to evaluate.
        precision: of the base and the computation.
    """

    training: bool
    resume: Path | None
    trained: Path | None
    precision: Precision


def check(args: Arguments, lock: Lock) -> Task:
    """Check flags, packages and the output folder, and decide what there is to do.

    Args:
        args: the command line.
        lock: keeps other runs out of the output folder from now on.

    Raises:
        UserError: the first thing that would fail, and what to do about it.
    """
    model, training = args.model, bool(args.train["do_train"])
    precision = choose_precision(
        model.bits, args.train["bf16"], args.train["fp16"], model.full_finetune, training, on_gpu(args.train["use_cpu"])
    )
    if model.bits < 16 and not has_bitsandbytes():
        raise UserError(
            f"found --bits {model.bits}; need bitsandbytes, which is not installed; install it or use --bits 16"
        )
    check_settings(args)
    task = _task(args, precision, lock)
    if not task.training:
        refuse_engine(replace(engine_setup(args), train={**args.train, "do_train": False}))
    return task


def _task(args: Arguments, precision: Precision, lock: Lock) -> Task:
    model, training = args.model, bool(args.train["do_train"])
    earlier = _output_folder(args, training, lock)
    if model.adapter not in (None, BARE) and not (training and earlier.trained):
        earlier = replace(earlier, trained=resolve_adapter(str(model.adapter)))
        return Task(training, _resume(args, earlier) if training else None, earlier.trained, precision)
    if training and earlier.trained is None:
        return Task(True, _resume(args, earlier), None, precision)
    return Task(False, None, _to_evaluate(args, earlier, training), precision)


def _output_folder(args: Arguments, training: bool, lock: Lock) -> Earlier:
    return open_folder(
        args.output_dir,
        deciding_settings(args),
        training,
        lock,
        overwrite=args.run.overwrite_output_dir,
        anyway=args.run.resume_anyway,
        writes=not args.run.dry_run,
        adapter_flag="--adapter",
    )


def _resume(args: Arguments, earlier: Earlier) -> Path | None:
    return resume_point(args.output_dir, args.train["resume_from_checkpoint"], earlier)


def _to_evaluate(args: Arguments, earlier: Earlier, training: bool) -> Path | None:
    """What a run without training works with."""
    folder = args.output_dir
    if args.model.adapter == BARE:
        return None
    if earlier.trained is not None:
        if training:
            logger.info("%s is finished: nothing is trained again, %s is used", folder, earlier.trained)
        return earlier.trained
    if earlier.checkpoint is not None:
        raise UserError(
            f"{folder} holds an unfinished run and nothing is to be trained; pass --adapter {earlier.checkpoint} "
            f"to use its last checkpoint, or --adapter {BARE} for the base model"
        )
    logger.info("no adapter is given, so this is the base model")
    return None
