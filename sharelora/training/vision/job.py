"""The job from a parsed command line to its files: check, load, train, evaluate, report."""

from __future__ import annotations

import logging
import time

from sharelora.memory.advice import FlagNames
from sharelora.trainer.lock import Lock
from sharelora.training.capacity import Outlook, explained, outlook, require_capacity
from sharelora.training.fitting import train, write_report
from sharelora.training.place import locate_base
from sharelora.training.preflight import check
from sharelora.training.settings import evaluates
from sharelora.training.vision.arguments import VisionArguments
from sharelora.training.vision.data import load_records, reports_json
from sharelora.training.vision.layer_groups import with_image_groups
from sharelora.training.vision.model import BESIDE, in_language_model
from sharelora.training.vision.session import VisionSession, open_data, open_session

logger = logging.getLogger(__name__)

NAMES = FlagNames("per_device_train_batch_size", "gradient_accumulation_steps", ("model_max_length",))


def run(args: VisionArguments) -> VisionSession | None:
    """Do what the command line asks for.

    Returns:
        The model and all that belongs to it, for whoever goes on measuring; None after a dry run.

    Raises:
        UserError: anything that a person can put right.
    """
    for notice in args.notices:
        logger.info("note: %s", notice)
    with Lock() as lock:
        return _run(args, lock)


def _run(args: VisionArguments, lock: Lock) -> VisionSession | None:
    started = time.monotonic()
    task = check(args, lock)
    records = load_records(args.vision, args.run.tiny, task.training, evaluates(args))
    place = locate_base(args, "llava")
    found: Outlook | None = None
    if task.training or args.run.dry_run:
        args = with_image_groups(args, place, task)
        found = outlook(in_language_model(args, place), place, task.precision, NAMES, BESIDE)
        logger.info("%s", found)
        require_capacity(found, args.run.ignore_memory)
    if args.run.dry_run:
        open_data(args, place, records)
        logger.info("dry run: no weights were loaded, nothing was trained or written")
        return None
    with explained(found, NAMES):
        session = open_session(args, task, place, records, started)
        if task.training:
            train(session, _report)
        if evaluates(args):
            session.metrics.update(session.trainer.evaluate())
    _report(session)
    return session


def _report(session: VisionSession) -> None:
    write_report(session, session.data.origin, reports_json(session.data))
