"""The job from a parsed command line to its files: check, load, train, evaluate, report."""

from __future__ import annotations

import logging
import time
from typing import Any

from sharelora.memory.advice import FlagNames
from sharelora.trainer.lock import Lock
from sharelora.training.capacity import Outlook, explained, outlook, require_capacity
from sharelora.training.fitting import train, write_report
from sharelora.training.layer_groups import with_model_groups
from sharelora.training.nlg.arguments import NlgArguments
from sharelora.training.nlg.session import NlgSession, open_session, read_data
from sharelora.training.place import locate_base
from sharelora.training.preflight import check
from sharelora.training.settings import evaluates

logger = logging.getLogger(__name__)

NAMES = FlagNames("train_batch_size", "grad_acc", ("seq_len",), bits=False)


def run(args: NlgArguments) -> dict[str, Any]:
    """Do what the command line asks for.

    Returns:
        What was measured, e.g. `eval_loss`, `eval_perplexity`, `train_loss`, `steps`.

    Raises:
        UserError: anything that a person can put right.
    """
    for notice in args.notices:
        logger.info("note: %s", notice)
    with Lock() as lock:
        return _run(args, lock)


def _run(args: NlgArguments, lock: Lock) -> dict[str, Any]:
    started = time.monotonic()
    task = check(args, lock)
    place = locate_base(args, "gpt2")
    found: Outlook | None = None
    if not args.model.full_finetune and (task.training or args.run.dry_run):
        args = with_model_groups(args, place, task)
        found = outlook(args, place, task.precision, NAMES)
        logger.info("%s", found)
        require_capacity(found, args.run.ignore_memory)
    if args.run.dry_run:
        read_data(args, place, task.training)
        logger.info("dry run: no weights were loaded, nothing was trained or written")
        return {}
    with explained(found, NAMES):
        session = open_session(args, task, place, started)
        if task.training:
            train(session, _report)
        if evaluates(args):
            session.metrics.update(_last_evaluation(session) or session.trainer.evaluate())
    _report(session)
    return session.metrics


def _last_evaluation(session: NlgSession) -> dict[str, float]:
    """What the evaluation after the last update found; empty if there was none, or the best checkpoint is used."""
    state, settings = session.trainer.state, session.trainer.args
    line = next((line for line in reversed(state.log_history) if "eval_loss" in line), {})
    if not session.task.training or settings.load_best_model_at_end or line.get("step") != state.global_step:
        return {}
    return {name: value for name, value in line.items() if name.startswith("eval_")}


def _report(session: NlgSession) -> None:
    write_report(session, session.data.origin, [report.to_json() for report in session.data.reports])
