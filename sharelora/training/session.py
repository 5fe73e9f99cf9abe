"""A run whose data and model are loaded and whose Trainer is ready."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from transformers import TrainingArguments, set_seed

from sharelora.data import DataModule, build_data, check_isolation
from sharelora.models.load import load_tokenizer
from sharelora.trainer.callbacks import FirstBackward, Progress, Speed
from sharelora.training.arguments import Arguments
from sharelora.training.mmlu import MmluEval, mmlu_callback
from sharelora.training.model import load_model
from sharelora.training.place import data_root
from sharelora.training.preflight import Task
from sharelora.training.settings import evaluates, trainer_settings
from sharelora.training.trainer import ShareTrainer

logger = logging.getLogger(__name__)


A = TypeVar("A", bound=Arguments)
D = TypeVar("D")


@dataclass
class Session(Generic[A, D]):
    """Everything that a run works with.

    Attributes:
        args: the command line.
        task: what there is to do.
        place: the base model's folder or hub id.
        speed: measures tokens per second.
        trained: folder of what was trained, or is being evaluated; None for the bare base.
        started: when the run began, by `time.monotonic`.
        metrics: what has been measured so far.
    """

    args: A
    task: Task
    place: str
    tokenizer: Any
    data: D
    trainer: ShareTrainer
    speed: Speed
    trained: Path | None
    started: float
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The model, without what wraps it for training."""
        return self.trainer.model

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return bool(self.trainer.is_world_process_zero())


def seeded_settings(args: Any, task: Task, beside: str = "") -> TrainingArguments:
    """Return the Trainer's settings, say what was decided, and seed all generators, once data is read.

    Args:
        args: the command line of a job of language models.
        task: what the run does.
        beside: what else has a precision, to be said.

    Raises:
        UserError: see `trainer_settings`.
    """
    settings, notices = trainer_settings(args, task.precision)
    for notice in (*notices, f"precision: {task.precision}{beside}"):
        logger.info("note: %s", notice)
    # A resumed run was evaluated at its start, when that was the start.
    settings.eval_on_start = settings.eval_on_start and task.resume is None
    set_seed(settings.seed)
    return settings


def open_session(args: Arguments, task: Task, place: str, started: float) -> Session[Arguments, DataModule]:
    """Load data first, then the model: what is wrong with the data shows before anything large is loaded.

    Raises:
        UserError: see `build_data`, `mmlu_callback`, `trainer_settings` and `load_model`.
    """
    tokenizer = load_tokenizer(
        place, args.model.model_revision, args.model.hub_token, args.model.trust_remote_code, args.model.cache_dir
    )
    data = _data(args, task, tokenizer)
    mmlu = mmlu_callback(args, tokenizer, place)
    settings = seeded_settings(args, task)
    model = load_model(args, place, task.precision, task.trained, task.training)
    if task.training and args.data.packing:
        rows = 1 if data.train_collator.flat else settings.per_device_train_batch_size
        check_isolation(model, len(tokenizer), rows)
    speed = Speed({})
    trainer = _trainer(args, model, settings, data, speed, mmlu)
    return Session(args, task, place, tokenizer, data, trainer, speed, task.trained, started)


def _data(args: Arguments, task: Task, tokenizer: Any) -> DataModule:
    return build_data(
        tokenizer,
        args.data,
        need_train=task.training,
        need_eval=evaluates(args),
        need_predict=args.train["do_predict"],
        data_root=data_root(args.run),
        flat_packing="flash" in (args.model.attn_implementation or ""),
    )


def _trainer(
    args: Arguments, model: Any, settings: TrainingArguments, data: DataModule, speed: Speed, mmlu: MmluEval | None
) -> ShareTrainer:
    # MMLU before the clock: the time of its questions is not training time.
    callbacks = [*([mmlu] if mmlu else []), FirstBackward(), speed, Progress()]
    trainer = ShareTrainer(
        model=model,
        args=settings,
        data_collator=data.train_collator,
        train_dataset=data.train,
        eval_dataset=data.eval,
        lengths=None if data.train is None else data.train.lengths.tolist(),
        extra_logs=speed.logs,
        on_nan=args.run.on_nan,
        callbacks=callbacks,
    )
    if mmlu is not None:
        mmlu.log = trainer.log
    return trainer
