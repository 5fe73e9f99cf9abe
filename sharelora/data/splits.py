"""Train, validation and test rows of a run: formatted, split and limited, the same for the same seed."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sharelora.data.arguments import DataArguments
from sharelora.data.formats import DEMONSTRATIONS, format_rows, only_prompts, unused_columns
from sharelora.data.gsm8k import without_calculator
from sharelora.data.instructions import Source, find_source
from sharelora.data.rows import Row
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

# The fraction that is taken for validation where eval_dataset_size would leave less than half of the rows for training.
SMALL_FRACTION = 0.1

# What each row of the data gives: one row, or one for each assistant turn of a conversation. They stay together.
Groups = list[list[Row]]


@dataclass(frozen=True)
class Splits:
    """The rows of a run, each with `input`, `output` and its other columns.

    Args:
        train: rows to learn.
        eval: validation rows; they choose the best checkpoint.
        test: rows that are only ever predicted.
        demonstrations: worked examples to put before each prompt, the first to be dropped first.
        name: the data set.
        origin: where it was found.
        format: its prompt format.
        notes: decisions made on the way, to be shown and saved.
    """

    train: list[Row]
    eval: list[Row]
    test: list[Row]
    demonstrations: tuple[str, ...]
    name: str
    origin: str
    format: str
    notes: tuple[str, ...]


def load_splits(args: DataArguments, data_root: Path | None = None, *, predict_only: bool = False) -> Splits:
    """Find the data, apply its prompt format and split it.

    Where the data has no validation split, `eval_dataset_size` rows of train are it, always chosen only by `data_seed`:
    a run that only trains leaves out the same rows that a later run evaluates on. The test split is never used for it.

    Args:
        args: the data flags.
        data_root: folder of local data; by default the environment variable SHARELORA_DATA.
        predict_only: without training and evaluation a file may have only prompts.

    Raises:
        UserError: no data, wrong columns, an empty part, or few_shot beyond what there is.
    """
    notes: list[str] = []
    source = find_source(args, data_root)
    if predict_only:
        source = _as_test(source, notes)
    groups = {split: _formatted(rows, split, source.format, args) for split, rows in source.splits.items()}
    notes += _left_out(source, groups, args)
    train, held = groups.get("train", []), groups.get("eval")
    if held is None:
        train, held = _carve(train, args, notes)
    if source.format in DEMONSTRATIONS and not args.keep_calculator:
        notes.append("calculator marks <<...>> are removed from the answers, as --keep_calculator false says")
    splits = Splits(
        train=_drawn(train, args.max_train_samples, args.data_seed),
        eval=_drawn(held, args.max_eval_samples, args.data_seed),
        test=_drawn(groups.get("test", []), args.max_eval_samples, args.data_seed),
        demonstrations=_demonstrations(source.format, args, notes),
        name=source.name,
        origin=source.origin,
        format=source.format,
        notes=tuple(notes),
    )
    for note in notes:
        logger.info("%s: %s", source.name, note)
    return splits


def _as_test(source: Source, notes: list[str]) -> Source:
    """A single file of prompts without answers can only be predicted."""
    if set(source.splits) != {"train"} or not only_prompts(source.splits["train"], source.format):
        return source
    notes.append("the rows have no answers: they are only for prediction")
    return Source(source.name, source.origin, source.format, {"test": source.splits["train"]})


def _formatted(rows: list[Row], split: str, name: str, args: DataArguments) -> Groups:
    chat = args.chat_template is not None
    groups = format_rows(rows, name, chat=chat, need_answer=split != "test")
    if name in DEMONSTRATIONS and not args.keep_calculator:
        for row in (row for group in groups for row in group if row["output"] is not None):
            row["output"] = without_calculator(row["output"])
    return groups


def _left_out(source: Source, groups: dict[str, Groups], args: DataArguments) -> Iterator[str]:
    """What is in the rows but not in the run, and answers that have nothing in them."""
    rows = [row for part in source.splits.values() for row in part]
    unused = unused_columns(rows, source.format, chat=args.chat_template is not None)
    if unused:
        columns = ", ".join(f"{column} ({count:,} of {len(rows):,} rows)" for column, count in unused.items())
        yield f"columns that are in no prompt and no answer: {columns}"
    empty = sum(row["output"] == "" for part in groups.values() for group in part for row in group)
    if empty:
        yield f"{empty:,} answers are empty: there the end token alone is learnt"


def _carve(train: Groups, args: DataArguments, notes: list[str]) -> tuple[Groups, Groups]:
    size = args.eval_dataset_size
    if size == 0 or not train:
        return train, []
    count = int(size) if size >= 1 else max(1, round(size * len(train)))
    if 2 * count > len(train):
        wanted, count = count, max(1, int(SMALL_FRACTION * len(train)))
        logger.warning(
            "eval_dataset_size asks for %d of only %d rows; taking %d for validation instead", wanted, len(train), count
        )
    if count >= len(train):
        raise UserError(
            f"found {len(train)} training row and eval_dataset_size {size:g}, which leaves nothing to train on; "
            "need more rows, or a validation file; add rows or pass --eval_dataset_size 0"
        )
    held = set(random.Random(args.data_seed).sample(range(len(train)), count))
    notes.append(f"{count} of {len(train)} training rows are the validation split (data_seed {args.data_seed})")
    rest = [group for index, group in enumerate(train) if index not in held]
    return rest, [train[index] for index in sorted(held)]


def _drawn(groups: Groups, most: int | None, seed: int) -> list[Row]:
    """At most `most` groups, drawn at random: the first ones of a sorted file would not be a fair sample."""
    if most is not None and most < len(groups):
        groups = [groups[index] for index in sorted(random.Random(seed).sample(range(len(groups)), most))]
    return [row for group in groups for row in group]


def _demonstrations(name: str, args: DataArguments, notes: list[str]) -> tuple[str, ...]:
    if name not in DEMONSTRATIONS or args.few_shot == 0:
        return ()
    if args.chat_template is not None:
        notes.append("a chat template is used, so no worked examples are put before the questions")
        return ()
    every = DEMONSTRATIONS[name]()
    if args.few_shot > len(every):
        raise UserError(f"found few_shot {args.few_shot}; format {name} has {len(every)} examples; lower --few_shot")
    return every[: args.few_shot]
