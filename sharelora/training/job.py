"""The main job from a parsed command line to its files: check, load, train, evaluate, predict, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from transformers import TrainerCallback

from sharelora.data import DataModule, load_splits
from sharelora.data.mmlu import load_mmlu
from sharelora.memory.advice import FlagNames
from sharelora.trainer.lock import Lock
from sharelora.training.arguments import Arguments
from sharelora.training.capacity import Outlook, explained, outlook, require_capacity
from sharelora.training.fitting import train, write_report
from sharelora.training.generate import predict, write_predictions
from sharelora.training.layer_groups import with_model_groups
from sharelora.training.mmlu import mmlu_split
from sharelora.training.place import data_root, locate_base
from sharelora.training.preflight import check
from sharelora.training.session import Session, open_session
from sharelora.training.settings import evaluates

logger = logging.getLogger(__name__)

Main = Session[Arguments, DataModule]


def run(args: Arguments, watch: Sequence[TrainerCallback] = ()) -> Main | None:
    """Do what the command line asks for.

    Args:
        args: the command line.
        watch: further callbacks of the Trainer, for whoever measures a run.

    Returns:
        The model and all that belongs to it, for whoever goes on measuring; None after a dry run.

    Raises:
        UserError: anything that a person can put right.
    """
    for notice in args.notices:
        logger.info("note: %s", notice)
    with Lock() as lock:
        return _run(args, lock, watch)


def _run(args: Arguments, lock: Lock, watch: Sequence[TrainerCallback]) -> Main | None:
    started = time.monotonic()
    task = check(args, lock)
    place, names = locate_base(args), flag_names(args)
    found: Outlook | None = None
    if not args.model.full_finetune and (task.training or args.run.dry_run):
        args = with_model_groups(args, place, task)
        found = outlook(args, place, task.precision, names)
        logger.info("%s", found)
        require_capacity(found, args.run.ignore_memory)
    if args.run.dry_run:
        _check_data(args)
        logger.info("dry run: nothing was loaded, trained or written")
        return None
    with explained(found, names):
        session = open_session(args, task, place, started)
        for callback in watch:
            session.trainer.add_callback(callback)
        if task.training:
            train(session, _report)
        if evaluates(args):
            session.metrics.update(session.trainer.evaluate())
        if args.train["do_predict"]:
            _predict(session)
    _report(session)
    return session


def flag_names(args: Arguments) -> FlagNames:
    """Return what this command calls the settings that decide about memory."""
    rows = ("pack_len",) if args.data.pack_len else ("source_max_len", "target_max_len")
    return FlagNames("per_device_train_batch_size", "gradient_accumulation_steps", rows)


def _check_data(args: Arguments) -> None:
    root = data_root(args.run)
    load_splits(args.data, root)
    if args.mmlu.do_mmlu_eval:
        load_mmlu(mmlu_split(args), root)


def _predict(session: Main) -> None:
    args, model, data = session.args, session.model, session.data
    assert data.predict is not None, "asked for above"
    ends = {session.tokenizer.eos_token_id, *_ids(model.generation_config.eos_token_id)}
    rows = predict(
        model,
        session.tokenizer,
        data.predict,
        data.predict_collator,
        args.generation.config(data.predict_collator.pad_id, sorted(ends)),
        session.trainer.args.eval_batch_size,
        session.trainer.args.seed,
    )
    session.metrics["predict_samples"] = len(rows)
    if session.first:
        logger.info("wrote %s", write_predictions(args.output_dir, rows))


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _report(session: Main) -> None:
    write_report(session, session.data.splits.origin, session.data.report.to_json())
