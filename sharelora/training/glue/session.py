"""A GLUE run whose data and model are loaded and whose Trainer is ready."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import TrainingArguments, set_seed

from sharelora.data.glue import GlueTask
from sharelora.flags.adapter import AdapterSettings
from sharelora.flags.sharing import parse_modules
from sharelora.models.encoders import default_modules
from sharelora.models.load import load_tokenizer
from sharelora.support.errors import UserError
from sharelora.trainer.callbacks import FirstBackward, Progress, Speed
from sharelora.training.glue.arguments import GlueArguments
from sharelora.training.glue.base import Base, encoder_config, load_encoder, sequence_length
from sharelora.training.glue.data import HELD_OUT, TaskData, TaskRows, tokenize
from sharelora.training.glue.losses import Consistency
from sharelora.training.glue.methods import BuildSettings, Method
from sharelora.training.glue.model import Counts, build, count, start_from
from sharelora.training.glue.preflight import Plan
from sharelora.training.glue.record import check_record, read_record
from sharelora.training.glue.selection import Selection
from sharelora.training.glue.settings import trainer_settings
from sharelora.training.glue.start import Start
from sharelora.training.glue.trainer import GlueTrainer

logger = logging.getLogger(__name__)


@dataclass
class Session:
    """Everything that a run works with.

    Attributes:
        args: the command line.
        plan: what there is to do.
        place: the encoder's folder or hub id.
        method: what is trained, or was.
        base: the encoder as it was loaded.
        max_length: most tokens of a row.
        speed: measures tokens per second.
        counts: of the model's weights.
        trained: folder of what was trained, or is being evaluated; None for a bare model.
        started: when the run began, by `time.monotonic`.
        metrics: what has been measured so far.
    """

    args: GlueArguments
    plan: Plan
    place: str
    method: Method
    base: Base
    tokenizer: Any
    max_length: int
    data: TaskData
    trainer: GlueTrainer
    speed: Speed
    counts: Counts
    trained: Path | None
    started: float
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The model, without what wraps it for training."""
        return self.trainer.model

    @property
    def rows(self) -> TaskRows:
        """The rows that the run uses."""
        return self.data.rows

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return bool(self.trainer.is_world_process_zero())


def complete_adapter(adapter: AdapterSettings, config: Any) -> AdapterSettings:
    """Return the settings with query and value of the architecture where no modules are named."""
    if adapter.modules is not None:
        return adapter
    return adapter.with_modules(parse_modules(default_modules(config.model_type)))


def open_session(
    args: GlueArguments, plan: Plan, place: str, rows: TaskRows, start: Start | None, started: float
) -> Session:
    """Tokenise the data, then load the model and make the Trainer.

    Raises:
        UserError: see `tokenize`, `load_encoder`, `start_from` and `trainer_settings`.
    """
    _check_task(plan, place, rows.task, start)
    config = encoder_config(args, place, rows.task)
    length = sequence_length(args, config, start.record.max_seq_length if start and start.record else None)
    tokenizer = _tokenizer(args, place)
    data = tokenize(args, rows, tokenizer, length)
    method = start.method if start else args.method
    settings, notices = trainer_settings(args, plan.precision, method)
    for notice in (*notices, f"precision: {plan.precision}"):
        logger.info("note: %s", notice)
    # A resumed run was evaluated at its start, when that was the start.
    settings.eval_on_start = settings.eval_on_start and plan.resume is None
    set_seed(settings.seed)
    base = load_encoder(args, place, rows.task, own_head=start is None)
    build_settings = args.build_settings
    if method.sharing is not None:
        build_settings = replace(build_settings, adapter=complete_adapter(args.adapter_settings, config))
    model = _model(args, plan, place, base, start, build_settings)
    counts = count(model, base.head)
    speed = Speed({})
    trainer = _trainer(args, model, settings, data, speed, method, tokenizer, plan.training)
    trained = plan.whole or (start.folder if start else None)
    return Session(
        args, plan, place, method, base, tokenizer, length, data, trainer, speed, counts, trained, started
    )  # fmt: skip


def _check_task(plan: Plan, place: str, task: GlueTask, start: Start | None) -> None:
    """Refuse to evaluate what was trained for another task, as far as it is known."""
    whole = read_record(Path(place)) if start is None and Path(place).is_dir() else None
    record, where = (start.record, start.folder) if start else (whole, Path(place))
    if record is not None and not plan.training:
        check_record(record, task.name, task.labels, where)


def _tokenizer(args: GlueArguments, place: str) -> Any:
    model = args.model
    name = model.tokenizer_name or place
    return load_tokenizer(name, model.model_revision, model.hub_token, model.trust_remote_code, model.cache_dir)


def _model(
    args: GlueArguments, plan: Plan, place: str, base: Base, start: Start | None, build_settings: BuildSettings
) -> Any:
    if start is not None:
        return start_from(base, start, build_settings, args.model.new_head, plan.training)
    if plan.training:
        return build(base, args.method, build_settings)
    if not base.trained_head:
        raise UserError(
            f"model {place} has no head for this task, and nothing is to be trained; need a trained head; pass "
            "--lora_path DIR to evaluate an adapter, or --do_train"
        )
    return base.model.requires_grad_(False)


def _trainer(
    args: GlueArguments,
    model: Any,
    settings: TrainingArguments,
    data: TaskData,
    speed: Speed,
    method: Method,
    tokenizer: Any,
    training: bool,
) -> GlueTrainer:
    task, train = data.rows.task, data.tokens.get("train")
    shown = {
        f"eval_{split}_{name}": f"{split} {name} {{:.4f}}"
        for split in data.rows.evaluated
        for name in data.rows.metric_names
    }
    # Some whole models have weights that a classifier never uses.
    watch = [] if method.name == "full" else [FirstBackward()]
    chosen = HELD_OUT in data.rows.splits and training
    return GlueTrainer(
        model=model,
        args=settings,
        data_collator=data.collator,
        train_dataset=train,
        eval_dataset=data.evaluation() or None,
        lengths=None if train is None else train.lengths,
        extra_logs=speed.logs,
        on_nan=args.run.on_nan,
        callbacks=[*watch, speed, Progress(shown)],
        metrics=task.metrics,
        regression=task.regression,
        storage=method.storage,
        selection=Selection(args.how.selection_metric or data.rows.main_metric) if chosen else None,
        consistency=_consistency(args, tokenizer),
    )


def _consistency(args: GlueArguments, tokenizer: Any) -> Consistency | None:
    if not args.how.reg_loss_wgt:
        return None
    if args.how.masking_prob and tokenizer.unk_token_id is None:
        raise UserError("found --masking_prob; need a tokenizer with an unknown token; drop the flag")
    kept = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id} - {None}
    return Consistency(args.how.reg_loss_wgt, args.how.masking_prob, tokenizer.unk_token_id or 0, kept)
