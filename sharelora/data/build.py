"""From data flags and a tokenizer to the data sets and collators of a run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.arguments import DataArguments
from sharelora.data.chat import TOOLS, chat_renderer, find_template
from sharelora.data.context import Context
from sharelora.data.packing import PackedRows
from sharelora.data.splits import Splits, load_splits
from sharelora.data.token_rows import PredictCollator, TokenRows, TrainCollator
from sharelora.data.tokenise import Encoder, SplitReport, TruncationReport, padding_id
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataModule:
    """The data of a run; a part that was not asked for is None.

    Args:
        train: rows to learn, packed if asked for.
        eval: validation rows, never packed, so that their loss compares between runs.
        predict: only prompts, each item with its `row`.
        train_collator: makes batches of `train` and `eval`.
        predict_collator: makes batches of `predict`.
        report: rows that were cut to fit.
        splits: the rows as text.
    """

    train: TokenRows | PackedRows | None
    eval: TokenRows | None
    predict: TokenRows | None
    train_collator: TrainCollator
    predict_collator: PredictCollator
    report: TruncationReport
    splits: Splits


def build_data(
    tokenizer: Any,
    args: DataArguments,
    *,
    need_train: bool = True,
    need_eval: bool = True,
    need_predict: bool = False,
    data_root: Path | None = None,
    flat_packing: bool = False,
    context: Context | None = None,
    new_tokens: int = 0,
) -> DataModule:
    """Load, split and tokenise the data of a run.

    Prediction is on the test split, and on the validation rows where the data has no test split.

    Args:
        tokenizer: a Hugging Face tokenizer, used as it is.
        args: the data flags.
        need_train: training rows are needed.
        need_eval: validation rows are needed.
        need_predict: prompts for generation are needed.
        data_root: folder of local data; by default the environment variable SHARELORA_DATA.
        flat_packing: make single packed rows, as flash attention needs.
        context: what the model can read, see `sharelora.models.context.context_of`; None if that is not known.
        new_tokens: most tokens that will follow a prompt of prediction.

    Raises:
        UserError: see `load_splits` and `Encoder`; or a part that is needed has no rows.
    """
    splits = load_splits(args, data_root, predict_only=need_predict and not (need_train or need_eval))
    context = context or Context()
    encoder = _encoder(tokenizer, args, splits, context=context, new_tokens=new_tokens if need_predict else 0)
    reports: list[SplitReport] = []

    def encoded(split: str, answers: bool = True) -> TokenRows:
        rows = getattr(splits, split)
        if not rows:
            raise UserError(_nothing(splits, split))
        tokens, report = encoder.encode(rows, split if answers else "predict", answers)
        reports.append(report)
        return tokens

    train: TokenRows | PackedRows | None = encoded("train") if need_train else None
    held = encoded("eval") if need_eval else None
    predict = encoded("test" if splits.test else "eval", answers=False) if need_predict else None
    report = TruncationReport.of(reports, tokenizer.model_max_length)
    if isinstance(train, TokenRows) and args.packing:
        train = PackedRows(train, args.row_len)
    if report.render():
        logger.warning("%s", report.render())
    pad = padding_id(tokenizer, context)
    return DataModule(train, held, predict, TrainCollator(pad, flat_packing), PredictCollator(pad), report, splits)


def _encoder(tokenizer: Any, args: DataArguments, splits: Splits, **limits: Any) -> Encoder:
    if splits.format != "chat" and args.chat_template is None:
        return Encoder(tokenizer, args, splits.demonstrations, **limits)
    template = find_template(args.chat_template, tokenizer)
    rows = [*splits.train, *splits.eval, *splits.test]
    tools = sum(isinstance(row.get(TOOLS), list) for row in rows)
    if tools and TOOLS not in template:
        logger.warning(
            "warning: %d of %d rows have tools, for which the chat template has no place: they are NOT in the prompts; "
            "pass another --chat_template",
            tools,
            len(rows),
        )
    return Encoder(tokenizer, args, render=chat_renderer(template, tokenizer), **limits)


def _nothing(splits: Splits, split: str) -> str:
    ways = {
        "train": "choose another --dataset, or only predict (--do_train false --do_predict)",
        "eval": "pass a larger --eval_dataset_size, or --do_eval false",
    }
    present = ", ".join(part for part in ("train", "eval", "test") if getattr(splits, part)) or "nothing"
    return f"data set {splits.name} from {splits.origin} has rows for {present}; need rows for {split}; {ways[split]}"
