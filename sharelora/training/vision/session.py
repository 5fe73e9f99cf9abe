"""A run whose data and model are loaded and whose Trainer is ready."""

from __future__ import annotations

from sharelora.models.vision import open_writer
from sharelora.trainer.callbacks import FirstBackward, Progress, Speed
from sharelora.training.preflight import Task
from sharelora.training.session import Session, seeded_settings
from sharelora.training.trainer import ShareTrainer
from sharelora.training.vision.arguments import VisionArguments
from sharelora.training.vision.data import VisionData, VisionRecords, encode_records
from sharelora.training.vision.model import load_seeing

VisionSession = Session[VisionArguments, VisionData]


def open_data(args: VisionArguments, place: str, records: VisionRecords) -> VisionData:
    """Tokenise the conversations of a run with the model's own processor.

    Raises:
        UserError: see `open_writer` and `encode_records`.
    """
    model = args.model
    writer = open_writer(place, args.vision.chat_template, model.model_revision, model.hub_token, model.cache_dir)
    return encode_records(records, writer, args.vision)


def open_session(
    args: VisionArguments, task: Task, place: str, records: VisionRecords, started: float
) -> VisionSession:
    """Tokenise data first, then load the model: what is wrong with the data shows before anything large is loaded.

    Raises:
        UserError: see `open_data`, `trainer_settings` and `load_seeing`.
    """
    data = open_data(args, place, records)
    settings = seeded_settings(args, task, ", fp32 projector")
    speed = Speed({})
    trainer = ShareTrainer(
        model=load_seeing(args, place, task.precision, task.trained, task.training),
        args=settings,
        data_collator=data.collator,
        train_dataset=data.train,
        eval_dataset=data.eval,
        lengths=None if data.train is None else data.train.lengths.tolist(),
        extra_logs=speed.logs,
        on_nan=args.run.on_nan,
        callbacks=[FirstBackward(), speed, Progress()],
    )
    tokenizer = data.collator.reader.tokenizer
    return Session(args, task, place, tokenizer, data, trainer, speed, task.trained, started)
