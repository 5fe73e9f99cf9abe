"""The rows of a run: read, limited, split, and then tokenised."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharelora.data.context import Context
from sharelora.data.glue import GlueCollator, GlueRows, GlueTask, encode, hold_out, load_glue, take
from sharelora.data.rows import Row
from sharelora.data.tokenise import padding_id
from sharelora.metrics.glue import COMBINED
from sharelora.support.errors import UserError
from sharelora.training.glue.options import GlueArguments
from sharelora.training.glue.start import Start
from sharelora.training.run import Data, Run

logger = logging.getLogger(__name__)

TRAIN, HELD_OUT = "train", "held_out"
LOSS = "loss"
HALF_PRECISION_UNIT = 8  # tokens; GPUs multiply half-precision matrices of such sizes faster


@dataclass(frozen=True)
class TaskRows:
    """The rows that a run uses.

    Attributes:
        task: what is learned.
        origin: where the rows were found.
        splits: `train`, `held_out`, the task's dev and test splits, as far as the run needs them.
    """

    task: GlueTask
    origin: str
    splits: Mapping[str, list[Row]]

    @property
    def evaluated(self) -> list[str]:
        """The splits that metrics are computed on, the held-out part of train first."""
        return [split for split in self.splits if split not in (TRAIN, *self.predicted)]

    @property
    def dev(self) -> list[str]:
        """Those of them that are the task's own."""
        return [split for split in self.evaluated if split != HELD_OUT]

    @property
    def predicted(self) -> list[str]:
        """The splits that predictions are written for."""
        return [split for split in self.splits if split.startswith("test")]

    @property
    def main_metric(self) -> str:
        """What an epoch is chosen by: the task's metric, or the mean of its metrics."""
        return self.task.metrics[0] if len(self.task.metrics) == 1 else COMBINED

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Everything that an evaluation gives."""
        return (*self.task.metrics, *([COMBINED] if len(self.task.metrics) > 1 else []), LOSS)


@dataclass(frozen=True)
class TaskData(Data):
    """The same as tokens.

    Attributes:
        rows: as read.
        tokens: split -> tokens.
        max_length: most tokens of a row.
        start: trained weights to continue from or to evaluate; None for the bare encoder.
    """

    rows: TaskRows
    tokens: Mapping[str, GlueRows]
    max_length: int
    start: Start | None


def read_task(run: Run[GlueArguments]) -> TaskRows:
    """Read the task's rows, as far as a run needs them.

    Raises:
        UserError: data that are missing or malformed, or a metric to choose by that the task does not have.
    """
    args, data = run.args, run.args.data
    source = load_glue(
        data.task_name,
        train_file=data.train_file,
        validation_file=data.validation_file,
        test_file=data.test_file,
        data_root=run.data_root,
    )
    splits: dict[str, list[Row]] = {}
    if run.training:
        rows = take(source.rows(TRAIN), data.max_train_samples)
        # Rows that nothing would be chosen by are trained on.
        amount = data.held_out if args.train["do_eval"] else 0.0
        splits[TRAIN], held = hold_out(rows, amount, data.held_out_seed, stratify=not source.task.regression)
        if held:
            splits[HELD_OUT] = take(held, data.max_eval_samples)
    if args.train["do_eval"]:
        dev = [split for split in source.task.dev_splits if source.splits.get(split)]
        if not dev and not splits.get(HELD_OUT):
            source.rows(source.task.dev_splits[0] if source.task.dev_splits else "dev")  # says what is missing
        splits |= {split: take(source.splits[split], data.max_eval_samples) for split in dev}
    if args.train["do_predict"]:
        names = source.task.test_splits or ("test",)
        splits |= {split: take(source.rows(split), data.max_predict_samples) for split in names}
    rows_of_task = TaskRows(source.task, source.origin, splits)
    _check(args, rows_of_task)
    return rows_of_task


def _check(args: GlueArguments, rows: TaskRows) -> None:
    asked = args.how.selection_metric
    if asked is not None and asked not in rows.metric_names:
        raise UserError(
            f"found --selection_metric {asked}; task {rows.task.name} has {', '.join(rows.metric_names)}; change it"
        )
    if args.how.reg_loss_wgt and rows.task.regression:
        raise UserError("found --reg_loss_wgt with scores to predict; R-drop compares classes; drop the flag")
    if args.train["label_smoothing_factor"] and rows.task.regression:
        raise UserError("found --label_smoothing_factor with scores to predict; only classes are smoothed; drop it")


def tokenize(
    run: Run[GlueArguments], rows: TaskRows, tokenizer: Any, max_length: int, start: Start | None, context: Context
) -> TaskData:
    """Turn every row into tokens, and say how many lost their end.

    Args:
        run: its options.
        rows: what `read_task` returns.
        tokenizer: the model's.
        max_length: most tokens of a row.
        start: goes with the data.
        context: what the model can read.

    Raises:
        UserError: a token that the model does not know.
    """
    args, tokens, truncated = run.args, {}, {}
    for split, part in rows.splits.items():
        tokens[split], truncated[split] = encode(
            part, rows.task, tokenizer, max_length, args.data.pad_to_max_length, context
        )
        if truncated[split]:
            logger.warning(
                "%d of %d %s rows are longer than %d tokens and lose their end; --max_seq_length raises the limit",
                truncated[split],
                len(part),
                split,
                max_length,
            )
    half = (args.train["fp16"] or args.train["bf16"]) and not args.train["use_cpu"]
    collator = GlueCollator(padding_id(tokenizer, context), HALF_PRECISION_UNIT if half else 1)
    evaluated = {split: tokens[split] for split in rows.evaluated} or None
    return TaskData(
        tokenizer, tokens.get(TRAIN), evaluated, collator, rows.origin, truncated, rows, tokens, max_length, start
    )  # fmt: skip
