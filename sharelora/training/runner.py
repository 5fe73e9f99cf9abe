"""The one way to run a job: check, load data, load the model, train, evaluate, predict, report."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import gather_object
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import TrainOutput

from sharelora.reporting.environment import peak_memory
from sharelora.reporting.history import write_history
from sharelora.reporting.results import plan_facts, write_result
from sharelora.support.files import vanishing
from sharelora.support.lock import Lock
from sharelora.trainer.callbacks import FirstBackward, Progress, Speed
from sharelora.trainer.guards import require_batch, require_same_start, require_update
from sharelora.trainer.signals import listening
from sharelora.trainer.trainer import AdapterTrainer
from sharelora.training.arguments import Arguments
from sharelora.training.capacity import explained
from sharelora.training.inputs import fingerprints, require_same_inputs
from sharelora.training.job import Job
from sharelora.training.output import begin, finish
from sharelora.training.resolve import resolve
from sharelora.training.run import Data, LastEvaluation, Run, Session
from sharelora.training.settings import trainer_settings
from sharelora.tuner.files import SETTINGS

logger = logging.getLogger(__name__)

A = TypeVar("A", bound=Arguments)
D = TypeVar("D", bound=Data)


def run_job(
    job: Job[A, D],
    args: A,
    watch: Sequence[TrainerCallback] = (),
    prepare: Callable[[Any], None] | None = None,
) -> Session[A, D] | None:
    """Do what a command line requests.

    Args:
        job: the task.
        args: its command line.
        watch: further callbacks of the Trainer, for whoever measures a run.
        prepare: called with the model before anything is trained or evaluated, for experiments that change its start.

    Returns:
        The model and all that belongs to it, for further measurements; None after a dry run.

    Raises:
        UserError: anything that a person can put right.
    """
    started = time.monotonic()
    for notice in args.notices:
        logger.info("note: %s", notice)
    with (
        vanishing(args.output_dir, SETTINGS),
        Lock() as lock,
        tempfile.TemporaryDirectory() as workspace,
        job.surroundings(args),
    ):
        run, rows = resolve(job, args, lock, Path(workspace))
        if args.run.dry_run:
            count = job.check_data(run, rows)
            if run.training and count is not None:
                require_batch(trainer_settings(run.args, run.precision)[0], count, job.names.batch)
            logger.info("dry run: no weights were loaded, nothing was trained or written")
            return None
        with explained(run.outlook, job.names_for(args)):
            session = open_session(job, run, rows, started)
            for callback in watch:
                session.trainer.add_callback(callback)
            if prepare is not None:
                prepare(session.model)
            _work(job, session)
            return session


def open_session(job: Job[A, D], run: Run[A], rows: Any, started: float) -> Session[A, D]:
    """Load data first, then the model: what is wrong with the data shows before anything large is loaded.

    Args:
        job: the task.
        run: what was decided.
        rows: what the task has read so far.
        started: when the run began, by `time.monotonic`.

    Raises:
        UserError: see the task's `load_data` and `load_model`, `trainer_settings` and `require_same_inputs`.
    """
    data = job.load_data(run, rows)
    if run.resume is not None:
        require_same_inputs(run.resume, fingerprints(run, data), run.args.run.resume_anyway)
    settings, notices = trainer_settings(run.args, run.precision)
    for notice in (*notices, f"precision: {run.precision}{job.also_precise}"):
        logger.info("note: %s", notice)
    if job.one_gpu and settings.n_gpu > 1:
        # The Trainer would spread a batch over all of them and so make it larger than the command line says.
        logger.info("note: one of %d GPUs is used; start as many processes with accelerate launch", settings.n_gpu)
        settings._n_gpu = 1
    if run.training:
        require_batch(settings, len(data.train), job.names.batch)
    # A resumed run was evaluated at its start, when that was the start.
    settings.eval_on_start = settings.eval_on_start and run.resume is None
    set_seed(settings.seed)
    speed, evaluation = Speed({}), LastEvaluation()
    gradients = [] if run.args.unused_weights else [FirstBackward()]
    trainer = job.make_trainer(
        run,
        data,
        args=settings,
        data_collator=data.collator,
        train_dataset=data.train,
        eval_dataset=data.eval,
        lengths=data.lengths,
        extra_logs=speed.logs,
        on_nan=run.args.run.on_nan,
        rate_of_b=run.args.run.loraplus_lr_ratio,
        # The task's own before the clock: the time of its questions is not training time.
        callbacks=[*job.callbacks(data), *gradients, speed, Progress(job.shown(data)), evaluation],
    )
    if run.training:  # once more: a base of the hub is there now
        trainer.inputs = fingerprints(run, data)
    return Session(run, data, trainer, speed, evaluation, job.trained(run, data), started)


def _work(job: Job[A, D], session: Session[A, D]) -> None:
    run, reported = session.run, False
    counted = job.count(session)
    if run.training:
        logger.info("%s", counted)
        _train(job, session)
        reported = True
    if run.args.evaluates and not session.evaluated:
        job.evaluate(session)
        reported = False
    if run.args.train["do_predict"]:
        job.predict(session)
        reported = False
    if not reported:
        _report(job, session)


def _train(job: Job[A, D], session: Session[A, D]) -> None:
    """Train, and leave the adapter, the history of the run and a report."""
    run, trainer = session.run, session.trainer
    if session.writes:
        begin(run.folder, job.deciding(run.args))
    if run.resume is not None:
        logger.info("resuming from %s", run.resume)
    done = fit(trainer, run.resume)
    session.metrics.update(
        train_loss=done.training_loss,
        train_runtime=done.metrics["train_runtime"],
        steps=done.global_step,
        skipped_updates=trainer.numbers.skipped,
        epochs=trainer.state.epoch,
        tokens=trainer.state.num_input_tokens_seen,
        tokens_per_second=session.speed.rate,
    )
    job.measure(session)
    weights = trainer.whole_weights()
    if session.writes:
        session.trained = job.save(session, weights)
        write_history(run.folder, job.history(session))
        # Before the run counts as finished: a failure here must not leave a finished run without a result.
        _report(job, session)
        finish(run.folder, session.trained, done.global_step)
    trainer.accelerator.wait_for_everyone()


def fit(trainer: AdapterTrainer, resume: Path | None) -> TrainOutput:
    """Train, from a checkpoint if there is one.

    Args:
        trainer: ready to train.
        resume: folder of the checkpoint.

    Raises:
        UserError: processes start from different places or hold different weights, or there was no update.
        Stopped: a signal asked for it; a checkpoint has been written.
    """
    if trainer.args.world_size > 1:
        require_same_start(gather_object([str(resume) if resume else None]))
    with listening() as trainer.requests:
        done = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        trainer.leave()
        trainer.require_agreement()
    require_update(done.global_step, trainer.numbers.skipped)
    if trainer.numbers.skipped:
        logger.warning("%d updates were left out: no finite loss or gradient", trainer.numbers.skipped)
    return done._replace(training_loss=trainer.mean_loss)


def _report(job: Job[A, D], session: Session[A, D]) -> None:
    """Write result.json and the file of numbers; after training, and again when more has been measured."""
    if not session.writes:
        return
    run = session.run
    session.metrics["peak_memory_bytes"] = peak_memory()
    path = write_result(
        run.folder,
        "train" if run.training else "evaluate",
        job.settings_json(session),
        {**session.metrics, "truncated": session.data.truncated},
        plan_facts(session.model) if run.training or session.trained else None,
        {name: file for name, file in job.files(session).items() if file.is_file()},
        time.monotonic() - session.started,
        model=run.base_name,
        run=run.args.train["run_name"],
        seed=run.args.train["seed"],
    )
    job.write_numbers(session)
    logger.info("wrote %s", path)
