"""Everything that can be known to fail, found out before anything is loaded or written."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from sharelora.support.errors import UserError
from sharelora.trainer.devices import Precision
from sharelora.trainer.lock import Lock
from sharelora.training.glue.arguments import GlueArguments
from sharelora.training.glue.settings import check_settings, deciding_settings, precision_of
from sharelora.training.output import MODEL, open_folder, resume_point

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What this run has to do.

    Attributes:
        training: train; False for a finished run, and for evaluation and prediction only.
        resume: the checkpoint to go on from.
        start: the adapter to start from or to evaluate.
        whole: the fully tuned model of a finished run, which is evaluated in place of the encoder.
        precision: of the computation.
    """

    training: bool
    resume: Path | None
    start: str | None
    whole: Path | None
    precision: Precision


def check(args: GlueArguments, lock: Lock) -> Plan:
    """Check flags, packages and the output folder, and decide what there is to do.

    Args:
        args: the command line.
        lock: keeps other runs out of the output folder from now on.

    Raises:
        UserError: the first thing that would fail, and what to do about it.
    """
    check_settings(args)
    precision, folder = precision_of(args), args.output_dir
    training, source = bool(args.train["do_train"]), args.model.lora_path
    earlier = open_folder(
        folder,
        deciding_settings(args),
        training,
        lock,
        overwrite=args.run.overwrite_output_dir,
        anyway=args.run.resume_anyway,
        writes=not args.run.dry_run,
        adapter_flag="--lora_path",
    )
    if earlier.trained is not None and (training or source is None):
        if training:
            logger.info("%s is finished: nothing is trained again, %s is used", folder, earlier.trained)
        whole = earlier.trained if earlier.trained.name == MODEL else None
        return Plan(False, None, None if whole else str(earlier.trained), whole, precision)
    if training:
        resume = resume_point(folder, args.train["resume_from_checkpoint"], earlier)
        return Plan(True, resume, source, None, precision)
    if earlier.checkpoint is not None and source is None:
        raise UserError(
            f"{folder} holds an unfinished run and nothing is to be trained; pass --lora_path {earlier.checkpoint} "
            "to use its last checkpoint, or another --output_dir for the bare model"
        )
    return Plan(False, None, source, None, precision)
