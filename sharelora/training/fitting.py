"""What the jobs of language models have in common: fit, keep what was trained, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers.trainer_utils import TrainOutput

from sharelora.reporting.environment import peak_memory
from sharelora.reporting.history import write_history
from sharelora.reporting.results import plan_facts, write_result
from sharelora.trainer.guards import require_same_start
from sharelora.trainer.signals import listening
from sharelora.trainer.trainer import AdapterTrainer
from sharelora.training.finish import course, result_files, save_trained, write_metrics
from sharelora.training.model import count
from sharelora.training.output import begin, finish
from sharelora.training.place import base_name
from sharelora.training.session import Session
from sharelora.training.settings import deciding_settings

logger = logging.getLogger(__name__)


def fit(trainer: AdapterTrainer, resume: Path | None) -> TrainOutput:
    """Train, from a checkpoint if there is one.

    Args:
        trainer: ready to train.
        resume: folder of the checkpoint.

    Raises:
        UserError: processes start from different places or hold different weights.
        Stopped: a signal asked for it; a checkpoint has been written.
    """
    if trainer.args.world_size > 1:
        require_same_start(gather_object([str(resume) if resume else None]))
    with listening() as trainer.requests:
        done = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        trainer.leave()
        trainer.require_agreement()
    if trainer.numbers.skipped:
        logger.warning("%d updates were left out: no finite loss or gradient", trainer.numbers.skipped)
    return done._replace(training_loss=trainer.mean_loss)


def train(session: Session[Any, Any], report: Callable[[Any], None]) -> None:
    """Train, and leave the adapter, the course of the run and a first report.

    Args:
        session: ready to train.
        report: writes the result; it is called before the run is marked as finished.
    """
    args, trainer = session.args, session.trainer
    logger.info("%s", count(session.model))
    if session.first:
        begin(args.output_dir, deciding_settings(args))
    if session.task.resume is not None:
        logger.info("going on from %s", session.task.resume)
    done = fit(trainer, session.task.resume)
    session.metrics.update(
        train_loss=done.training_loss,
        train_runtime=done.metrics["train_runtime"],
        steps=done.global_step,
        skipped_updates=trainer.numbers.skipped,
        epochs=trainer.state.epoch,
        tokens=trainer.state.num_input_tokens_seen,
        tokens_per_second=session.speed.rate,
        **course(trainer.state.log_history),
    )
    weights = trainer.whole_weights()
    if session.first:
        session.trained = save_trained(session.model, session.tokenizer, args.output_dir, weights)
        write_history(args.output_dir, trainer.state.log_history)
        report(session)
        finish(args.output_dir, session.trained, done.global_step)
    trainer.accelerator.wait_for_everyone()


def write_report(session: Session[Any, Any], origin: str, truncated: Any) -> None:
    """Write result.json and metrics.json; after training, and again when everything has been measured.

    Args:
        session: what was done.
        origin: where the data came from.
        truncated: what was cut off of them, as JSON data.
    """
    if not session.first:
        return
    args, folder = session.args, session.args.output_dir
    session.metrics["peak_memory_bytes"] = peak_memory()
    path = write_result(
        folder,
        "train" if session.task.training else "evaluate",
        {**args.to_json(), "precision": str(session.task.precision), "data": origin},
        {**session.metrics, "truncated": truncated},
        plan_facts(session.model) if session.task.training or session.trained else None,
        result_files(folder, session.trained),
        time.monotonic() - session.started,
        model=base_name(args, session.place),
        run=args.train["run_name"],
        seed=args.train["seed"],
    )
    write_metrics(folder, args.train["run_name"], session.metrics, anew=session.task.training)
    logger.info("wrote %s", path)
