"""A run whose data and model are loaded and whose Trainer is ready."""

from __future__ import annotations

from typing import Any

from sharelora.models.known import model_config
from sharelora.models.load import load_tokenizer
from sharelora.support.errors import UserError
from sharelora.trainer.callbacks import FirstBackward, Progress, Speed
from sharelora.training.model import load_model
from sharelora.training.nlg.arguments import NlgArguments
from sharelora.training.nlg.data import NlgData, load_data
from sharelora.training.nlg.trainer import NlgTrainer, without_dropout
from sharelora.training.place import data_root
from sharelora.training.preflight import Task
from sharelora.training.session import Session, seeded_settings
from sharelora.training.settings import evaluates

SHOWN = {"eval_perplexity": "perplexity {:.3f}"}


NlgSession = Session[NlgArguments, NlgData]


def open_tokenizer(args: NlgArguments, place: str) -> tuple[Any, int]:
    """Load the tokenizer, and say how many tokens the model reads at once.

    Raises:
        UserError: none, or one with more tokens than the model knows.
    """
    model = args.model
    tokenizer = load_tokenizer(place, model.model_revision, model.hub_token, model.trust_remote_code, model.cache_dir)
    config = model_config(place, model.trust_remote_code)
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer of {place} has {len(tokenizer)} tokens and the model knows {config.vocab_size}; need a "
            "tokenizer of this model; copy its own files there"
        )
    return tokenizer, int(config.max_position_embeddings)


def read_data(args: NlgArguments, place: str, training: bool) -> tuple[Any, NlgData]:
    """Load the tokenizer and the rows of a run.

    Raises:
        UserError: see `open_tokenizer` and `load_data`.
    """
    tokenizer, context = open_tokenizer(args, place)
    data = load_data(
        args.nlg,
        tokenizer,
        context,
        args.train["seed"],
        need_train=training,
        need_eval=evaluates(args),
        data_root=data_root(args.run),
    )
    return tokenizer, data


def open_session(args: NlgArguments, task: Task, place: str, started: float) -> NlgSession:
    """Load data first, then the model: what is wrong with the data shows before anything large is loaded.

    Raises:
        UserError: see `read_data`, `trainer_settings` and `load_model`.
    """
    tokenizer, data = read_data(args, place, task.training)
    settings = seeded_settings(args, task)
    model = load_model(args, place, task.precision, task.trained, task.training)
    without_dropout(model)
    speed = Speed({})
    trainer = NlgTrainer(
        model=model,
        args=settings,
        options=args.nlg,
        data_collator=data.collator,
        train_dataset=data.train,
        eval_dataset=data.eval,
        lengths=None if data.train is None else data.train.lengths.tolist(),
        extra_logs=speed.logs,
        on_nan=args.run.on_nan,
        callbacks=[FirstBackward(), speed, Progress(SHOWN)],
    )
    return Session(args, task, place, tokenizer, data, trainer, speed, task.trained, started)
