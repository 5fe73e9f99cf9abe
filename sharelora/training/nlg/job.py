"""The job from a parsed command line to its files: check, load, train, evaluate, report."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from transformers.trainer_utils import TrainOutput

from sharelora.environment import peak_memory
from sharelora.errors import UserError
from sharelora.results import write_result
from sharelora.training.capacity import outlook, require_capacity
from sharelora.training.finish import course, result_files, save_trained, write_metrics
from sharelora.training.history import write_history
from sharelora.training.model import count, plan_facts
from sharelora.training.nlg.arguments import NlgArguments
from sharelora.training.nlg.session import Session, open_session, read_data
from sharelora.training.output import begin, finish
from sharelora.training.place import base_name, locate_base
from sharelora.training.preflight import check
from sharelora.training.settings import deciding_settings, evaluates

logger = logging.getLogger(__name__)


def run(args: NlgArguments) -> dict[str, Any]:
    """Do what the command line asks for.

    Returns:
        What was measured, e.g. `eval_loss`, `eval_perplexity`, `train_loss`, `steps`.

    Raises:
        UserError: anything that a person can put right.
    """
    started = time.monotonic()
    for notice in args.notices:
        logger.info("note: %s", notice)
    task = check(args)
    place = locate_base(args, "gpt2")
    if not args.model.full_finetune and (task.training or args.run.dry_run):
        found = outlook(args, place, task.precision)
        logger.info("%s", found)
        require_capacity(args, found)
    if args.run.dry_run:
        read_data(args, place, task.training)
        logger.info("dry run: no weights were loaded, nothing was trained or written")
        return {}
    session = open_session(args, task, place, started)
    if task.training:
        _train(session)
    if evaluates(args):
        session.metrics.update(_last_evaluation(session) or session.trainer.evaluate())
    _report(session)
    return session.metrics


def _last_evaluation(session: Session) -> dict[str, float]:
    """What the evaluation after the last update found; empty if there was none, or the best checkpoint is used."""
    state, settings = session.trainer.state, session.trainer.args
    line = next((line for line in reversed(state.log_history) if "eval_loss" in line), {})
    if not session.task.training or settings.load_best_model_at_end or line.get("step") != state.global_step:
        return {}
    return {name: value for name, value in line.items() if name.startswith("eval_")}


def _train(session: Session) -> None:
    args, trainer = session.args, session.trainer
    logger.info("%s", count(session.model))
    if session.first:
        begin(args.output_dir, deciding_settings(args))
    if session.task.resume is not None:
        logger.info("going on from %s", session.task.resume)
    done = _fit(session)
    session.metrics.update(
        train_loss=done.training_loss,
        train_runtime=done.metrics["train_runtime"],
        steps=done.global_step,
        epochs=trainer.state.epoch,
        tokens=trainer.state.num_input_tokens_seen,
        tokens_per_second=session.speed.rate,
        **course(trainer.state.log_history),
    )
    if session.first:
        session.trained = save_trained(session.model, session.tokenizer, args.output_dir)
        write_history(args.output_dir, trainer.state.log_history)
        _report(session)
        finish(args.output_dir, session.trained, done.global_step)
    trainer.accelerator.wait_for_everyone()


def _fit(session: Session) -> TrainOutput:
    resume = session.task.resume
    try:
        return session.trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"GPU memory ran out: {str(error).splitlines()[0]}; lower --train_batch_size (and raise --grad_acc) or "
            "--seq_len, or add --gradient_checkpointing"
        ) from error


def _report(session: Session) -> None:
    """Write result.json and metrics.json; after training, and again when everything has been measured."""
    if not session.first:
        return
    args, folder = session.args, session.args.output_dir
    session.metrics["peak_memory_bytes"] = peak_memory()
    path = write_result(
        folder,
        "train" if session.task.training else "evaluate",
        {**args.to_json(), "precision": str(session.task.precision), "data": session.data.origin},
        {**session.metrics, "truncated": [report.to_json() for report in session.data.reports]},
        plan_facts(session.model) if session.task.training or session.trained else None,
        result_files(folder, session.trained),
        time.monotonic() - session.started,
        model=base_name(args, session.place),
        run=args.train["run_name"],
        seed=args.train["seed"],
    )
    write_metrics(folder, args.train["run_name"], session.metrics, anew=session.task.training)
    logger.info("wrote %s", path)
