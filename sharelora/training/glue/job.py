"""The GLUE job from a parsed command line to its files: check, load, train, choose, evaluate, predict, report."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharelora.reporting.history import write_history
from sharelora.trainer.devices import on_gpu
from sharelora.trainer.lock import Lock
from sharelora.training.capacity import Outlook, explained
from sharelora.training.fitting import fit
from sharelora.training.glue.arguments import GlueArguments
from sharelora.training.glue.base import locate_encoder
from sharelora.training.glue.course import Entry, read_course, summary
from sharelora.training.glue.data import read_task
from sharelora.training.glue.model import count
from sharelora.training.glue.outlook import NAMES, look_ahead
from sharelora.training.glue.preflight import check
from sharelora.training.glue.report import (
    predict,
    report,
    save_trained,
    weight_file,
    write_evaluations,
    write_record,
)
from sharelora.training.glue.session import Session, open_session
from sharelora.training.glue.settings import deciding_settings, deterministic
from sharelora.training.glue.start import find_start
from sharelora.training.layer_groups import with_groups
from sharelora.training.output import begin, finish

logger = logging.getLogger(__name__)


def run(args: GlueArguments, prepare: Callable[[Any], None] | None = None) -> dict[str, Any]:
    """Do what the command line asks for.

    Args:
        args: the command line.
        prepare: called with the model before anything is trained or evaluated, for experiments that change its start.

    Returns:
        What was measured, as it stands in result.json.

    Raises:
        UserError: anything that a person can put right.
    """
    for notice in args.notices:
        logger.info("note: %s", notice)
    with Lock() as lock:
        return _run(args, prepare, lock)


def _run(args: GlueArguments, prepare: Callable[[Any], None] | None, lock: Lock) -> dict[str, Any]:
    started = time.monotonic()
    plan = check(args, lock)
    place = str(plan.whole) if plan.whole else locate_encoder(args)
    rows = read_task(args, plan.training)
    with tempfile.TemporaryDirectory() as workspace, deterministic(args.how.use_deterministic_algorithms):
        start = find_start(args, plan.start, place, Path(workspace)) if plan.start else None
        found: Outlook | None = None
        if plan.training or args.run.dry_run:
            args = with_groups(args, place, start is not None, bits=32, **_devices(args))
            found = look_ahead(args, place, rows, start)
        if args.run.dry_run:
            logger.info("dry run: nothing was loaded, trained or written")
            return {}
        with explained(found, NAMES):
            session = open_session(args, plan, place, rows, start, started)
            if prepare is not None:
                prepare(session.model)
                session.counts = count(session.model, session.base.head)
            return _work(session)


def _devices(args: GlueArguments) -> dict[str, Any]:
    return {"device_map": {"": 0}} if on_gpu(args.train["use_cpu"]) else {}


def _work(session: Session) -> dict[str, Any]:
    counts = session.counts
    session.metrics.update(trainable=counts.trained, trainable_head=counts.head, parameters=counts.total)
    if session.plan.training:
        _train(session)
    elif session.args.train["do_eval"]:
        _evaluate(session)
    if session.args.train["do_predict"]:
        for file in predict(session):
            logger.info("wrote %s", file)
    if session.first:
        logger.info("wrote %s", report(session))
    return session.metrics


def _evaluate(session: Session) -> None:
    found = session.trainer.evaluate()
    entry = {name.removeprefix("eval_"): value for name, value in found.items()}
    names = [f"{split}_{metric}" for split in session.rows.evaluated for metric in session.rows.metric_names]
    session.metrics.update({name: entry[name] for name in names})
    if session.first:
        write_evaluations(session, entry, "evaluated")


def _train(session: Session) -> None:
    args, trainer = session.args, session.trainer
    logger.info("%s", session.counts)
    if session.first:
        begin(args.output_dir, deciding_settings(args))
    if session.plan.resume is not None:
        logger.info("going on from %s", session.plan.resume)
    trainer.beside = lambda folder: write_record(session, folder, trainer.state.epoch)
    done = fit(trainer, session.plan.resume)
    course = _course(session)
    session.metrics.update(
        train_loss=done.training_loss,
        train_runtime=done.metrics["train_runtime"],
        train_samples=len(session.rows.splits["train"]),
        steps=done.global_step,
        skipped_updates=trainer.numbers.skipped,
        epochs=trainer.state.epoch,
        tokens=trainer.state.num_input_tokens_seen,
        tokens_per_second=session.speed.rate,
    )
    kept, epoch = _keep(session, course)
    if session.first:
        _leave(session, course, kept, epoch, done.global_step)
    trainer.accelerator.wait_for_everyone()


def _course(session: Session) -> list[Entry]:
    """Return every evaluation; the last weights are evaluated now if they have not been."""
    trainer, rows = session.trainer, session.rows
    if not session.args.train["do_eval"]:
        return []
    course = read_course(trainer.state.log_history, rows)
    if not course or course[-1]["step"] != trainer.state.global_step:
        trainer.evaluate()
        course = read_course(trainer.state.log_history, rows)
    return course


def _keep(session: Session, course: list[Entry]) -> tuple[str, float]:
    """Put the weights that are kept into the model; return which these are, and their epoch."""
    selection, last = session.trainer.selection, float(session.trainer.state.epoch or 0)
    selected = None if selection is None or not selection.weights else selection.step
    if course:
        session.metrics.update(summary(course, session.rows, selected))
    if selection is None or selected is None or session.args.how.save_epoch == "last":
        return "last", last
    selection.restore(session.model)
    logger.info(
        "epoch %g is kept, with held-out %s %.4f; the last one is %g", selection.epoch, selection.metric,
        selection.value, last,
    )  # fmt: skip
    return "selected", selection.epoch


def _leave(session: Session, course: list[Entry], kept: str, epoch: float, steps: int) -> None:
    folder, history = session.args.output_dir, session.trainer.state.log_history
    session.trained = save_trained(session, epoch)
    session.metrics.update(saved_epoch=kept, adapter_bytes=weight_file(session.trained).stat().st_size)
    write_history(folder, [_with_loss(session, line) for line in history])
    for entry in course:
        if entry["epoch"] == epoch:
            write_evaluations(session, entry, kept)
    report(session)
    finish(folder, session.trained, steps)


def _with_loss(session: Session, line: dict[str, Any]) -> dict[str, Any]:
    """Name one split's loss as the table and the plot want it."""
    name = f"eval_{session.rows.evaluated[0]}_loss" if session.rows.evaluated else ""
    return {**line, "eval_loss": line[name]} if name in line else line
