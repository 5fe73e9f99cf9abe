"""The rows of a run as tokens, and what had to be cut."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sharelora.data import TokenRows, TrainCollator, padding_id
from sharelora.data.nlg.load import NLG_DATASETS, locate_nlg
from sharelora.data.nlg.token_files import load_encoded
from sharelora.data.nlg.tokens import NlgReport, token_rows
from sharelora.models.context import context_of
from sharelora.models.known import model_config
from sharelora.models.load import load_tokenizer
from sharelora.support.errors import UserError
from sharelora.training.nlg.options import NlgOptions
from sharelora.training.run import Data, Run

logger = logging.getLogger(__name__)

Row = TypeVar("Row")


@dataclass(frozen=True)
class NlgData(Data):
    """The rows of a run; all texts of the validation rows count in the perplexity, on the text alone."""


def load_data(run: Run[Any], options: NlgOptions) -> NlgData:
    """Load the tokenizer, then read and tokenise the rows of a run.

    Args:
        run: what it needs.
        options: which data, and how long.

    Raises:
        UserError: no such data, another form, inputs that leave no room for a text, or tokens that the model does not
            know.
    """
    tokenizer = load_tokenizer(run.base, **run.args.model.hub)
    context = context_of(model_config(run.base, run.args.model.trust_remote_code))
    limit = min(options.seq_len, context.tokens or options.seq_len)
    if limit < options.seq_len:
        logger.info("note: --seq_len %d is more than the model reads; rows end at %d tokens", options.seq_len, limit)
    reports: list[NlgReport] = []

    def rows(source: str, split: str, objective: str, most: int | None, seed: int) -> TokenRows:
        encoded = drawn(load_encoded(source, split, tokenizer, run.data_root), most, seed)
        context.require_embeddings(
            tokenizer, (row.context + row.completion for row in encoded), f"{len(encoded):,} {split} rows"
        )
        tokens, report = token_rows(encoded, limit, objective, split)
        reports.append(report)
        if report.line():
            logger.warning("%s", report.line())
        return tokens

    train = held = None
    if run.training:
        train = rows(options.train_data, "train", options.obj, options.max_train_samples, run.args.train["seed"])
    if run.args.evaluates:
        held = rows(validation_source(options), "valid", "clm", options.max_eval_samples, 0)
    source = options.train_data if run.training else validation_source(options)
    origin = str(locate_nlg(source, "train", run.data_root) or "hub")
    truncated = [report.to_json() for report in reports]
    return NlgData(tokenizer, train, held, TrainCollator(padding_id(tokenizer, context)), origin, truncated)


def validation_source(options: NlgOptions) -> str:
    """Return where validation rows are.

    Raises:
        UserError: nothing says it, since the training rows are a single file.
    """
    if options.valid_data is not None:
        return options.valid_data
    if options.train_data in NLG_DATASETS or Path(options.train_data).expanduser().is_dir():
        return options.train_data
    raise UserError(
        f"found the training file {options.train_data} and no validation rows; need some to evaluate on; "
        "pass --valid_data, or --do_eval false --eval_strategy no"
    )


def drawn(rows: Sequence[Row], most: int | None, seed: int) -> list[Row]:
    """Return at most so many rows, drawn at random: the files are sorted by their inputs."""
    if most is None or most >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), most))]
