"""The main job from a parsed command line to its files: check, load, train, evaluate, predict, report."""

from __future__ import annotations

import logging
import time

import torch
from transformers.trainer_utils import TrainOutput

from sharelora.data import load_splits
from sharelora.data.mmlu import load_mmlu
from sharelora.environment import peak_memory
from sharelora.errors import UserError
from sharelora.results import write_result
from sharelora.training.arguments import Arguments
from sharelora.training.capacity import outlook, require_capacity
from sharelora.training.finish import course, result_files, save_trained, write_metrics
from sharelora.training.generate import predict, write_predictions
from sharelora.training.history import write_history
from sharelora.training.mmlu import mmlu_split
from sharelora.training.model import count, plan_facts
from sharelora.training.output import begin, finish
from sharelora.training.place import base_name, data_root, locate_base
from sharelora.training.preflight import check
from sharelora.training.session import Session, open_session
from sharelora.training.settings import deciding_settings, evaluates

logger = logging.getLogger(__name__)


def run(args: Arguments) -> None:
    """Do what the command line asks for.

    Raises:
        UserError: anything that a person can put right.
    """
    started = time.monotonic()
    for notice in args.notices:
        logger.info("note: %s", notice)
    task = check(args)
    place = locate_base(args)
    if not args.model.full_finetune and (task.training or args.run.dry_run):
        found = outlook(args, place, task.precision)
        logger.info("%s", found)
        require_capacity(args, found)
    if args.run.dry_run:
        _check_data(args)
        logger.info("dry run: nothing was loaded, trained or written")
        return
    session = open_session(args, task, place, started)
    if task.training:
        _train(session)
    if evaluates(args):
        session.metrics.update(session.trainer.evaluate())
    if args.train["do_predict"]:
        _predict(session)
    _report(session)


def _check_data(args: Arguments) -> None:
    root = data_root(args)
    load_splits(args.data, root)
    if args.mmlu.do_mmlu_eval:
        load_mmlu(mmlu_split(args), root)


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
            f"GPU memory ran out: {str(error).splitlines()[0]}; lower --per_device_train_batch_size (and raise "
            "--gradient_accumulation_steps) or --source_max_len, add --gradient_checkpointing, or use --bits 4"
        ) from error


def _predict(session: Session) -> None:
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


def _report(session: Session) -> None:
    """Write result.json and metrics.json; after training, and again when everything has been measured."""
    if not session.first:
        return
    args, folder = session.args, session.args.output_dir
    session.metrics["peak_memory_bytes"] = peak_memory()
    path = write_result(
        folder,
        "train" if session.task.training else "evaluate",
        {**args.to_json(), "precision": str(session.task.precision), "data": session.data.splits.origin},
        {**session.metrics, "truncated": session.data.report.to_json()},
        plan_facts(session.model) if session.task.training or session.trained else None,
        result_files(folder, session.trained),
        time.monotonic() - session.started,
        model=base_name(args, session.place),
        run=args.train["run_name"],
        seed=args.train["seed"],
    )
    write_metrics(folder, args.train["run_name"], session.metrics, anew=session.task.training)
    logger.info("wrote %s", path)
