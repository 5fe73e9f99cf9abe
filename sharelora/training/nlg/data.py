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
from sharelora.support.errors import UserError
from sharelora.training.nlg.options import NlgOptions

logger = logging.getLogger(__name__)

Row = TypeVar("Row")


@dataclass(frozen=True)
class NlgData:
    """The data of a run; a part that was not asked for is None.

    Attributes:
        train: rows to learn.
        eval: validation rows, all of whose texts count in the perplexity, on the text alone.
        collator: makes batches of both.
        origin: where they were found.
        reports: what was cut.
    """

    train: TokenRows | None
    eval: TokenRows | None
    collator: TrainCollator
    origin: str
    reports: tuple[NlgReport, ...]


def load_data(
    options: NlgOptions,
    tokenizer: Any,
    context: int,
    seed: int,
    *,
    need_train: bool = True,
    need_eval: bool = True,
    data_root: Path | None = None,
) -> NlgData:
    """Read and tokenise the rows of a run.

    Args:
        options: which data, and how long.
        tokenizer: the model's.
        context: most tokens that the model reads.
        seed: of the draw of training rows, if not all are used.
        need_train: training rows are needed.
        need_eval: validation rows are needed.
        data_root: folder of local data; by default SHARELORA_DATA, else the hub.

    Raises:
        UserError: no such data, another form, or inputs that leave no room for a text.
    """
    limit = min(options.seq_len, context)
    if limit < options.seq_len:
        logger.info("note: --seq_len %d is more than the model reads; rows end at %d tokens", options.seq_len, limit)
    reports: list[NlgReport] = []

    def rows(place: str, split: str, objective: str, most: int | None, draw: int) -> TokenRows:
        found = load_encoded(place, split, tokenizer, data_root)
        made, report = token_rows(drawn(found, most, draw), limit, objective, split)
        reports.append(report)
        if report.line():
            logger.warning("%s", report.line())
        return made

    train = rows(options.train_data, "train", options.obj, options.max_train_samples, seed) if need_train else None
    held = None
    if need_eval:
        held = rows(validation_place(options), "valid", "clm", options.max_eval_samples, 0)
    found = locate_nlg(options.train_data if need_train else validation_place(options), "train", data_root)
    return NlgData(train, held, TrainCollator(padding_id(tokenizer)), str(found or "hub"), tuple(reports))


def validation_place(options: NlgOptions) -> str:
    """Where validation rows are.

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
    """At most so many rows, drawn at random: the files are sorted by their inputs."""
    if most is None or most >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), most))]
