"""Texts to measure layers on: a sample from a file or a known data set, and the measurement."""

from __future__ import annotations

import hashlib
import logging
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sharelora.data.arguments import DataArguments
from sharelora.data.begin import begin_token, begun
from sharelora.data.context import Context
from sharelora.data.find import KnownDataset, find_split, unknown_name
from sharelora.data.formats import format_of, format_rows
from sharelora.data.instructions import find_source, means_path
from sharelora.data.registry import KNOWN
from sharelora.data.rows import EXTENSIONS, Row, columns_of, extension, optional, parse_rows, read_rows, read_text
from sharelora.data.tokenise import padding_id
from sharelora.layer_groups.measure import compare_layers, longest_first
from sharelora.layer_groups.similarity import Similarity
from sharelora.models.context import context_of
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

# Columns that hold a whole text, in the order in which they are looked for.
TEXT_COLUMNS = ("text", "content", "sentence")
MAX_LENGTH = 512
# Plain texts that are known by name. The second ShareLoRA paper draws from C4's validation texts.
PLAIN = {
    dataset.name: dataset
    for dataset in (
        KnownDataset(
            name="c4",
            hub={"path": "allenai/c4", "data_files": {"validation": "en/c4-validation.00000-of-00008.json.gz"}},
            files={"eval": ("c4/validation", "c4/c4-validation", "c4/c4-validation.00000-of-00008")},
            instead="give a text file",
        ),
        KnownDataset(
            name="wikitext",
            hub={"path": "Salesforce/wikitext", "name": "wikitext-103-raw-v1"},
            files={"eval": ("wikitext/validation", "wikitext/wiki.valid")},
            extensions=(*EXTENSIONS, ".raw", ".tokens", ".txt"),
            instead="give a text file",
        ),
    )
}
_HEADING = re.compile(r"=.*=", re.DOTALL)  # WikiText's
# With one token the last is the first, whose state hardly depends on the text.
_LEAST_TOKENS = 2

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sample:
    """Texts and where they are from.

    Attributes:
        origin: the file, or the data set's name.
        texts: none of them empty, without surrounding blanks.
    """

    origin: str
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that tell these texts from others."""
        return hashlib.sha256("\0".join(self.texts).encode()).hexdigest()[:16]


def read_sample(name: str, count: int, seed: int = 0, data_root: Path | None = None) -> Sample:
    """Read texts and draw some of them.

    A text file has paragraphs separated by empty lines or, without any, a text in every line. A table (JSON Lines,
    JSON, CSV, TSV, Parquet) has a column `text`, `content` or `sentence`, or the columns of a prompt format; prompt and
    answer are then one text.

    Args:
        name: a file, or a data set that is known by name: of instructions, or of plain texts (`PLAIN`).
        count: how many to draw at random; all of them, with a warning, if there are fewer.
        seed: of the draw.
        data_root: folder of local data; by default the environment variable SHARELORA_DATA.

    Raises:
        UserError: no such file or data set, or no text in it.
    """
    path = Path(name).expanduser()
    if name in PLAIN:
        found = find_split(PLAIN[name], "eval", data_root)
        texts = _texts_of_rows(found.rows(), found.origin) if found.file is None else _texts_of_file(found.file)
        raw = [text for text in texts if not _HEADING.fullmatch(text.strip())]
    elif name not in KNOWN and path.is_file():
        raw = _texts_of_file(path)
    elif name not in KNOWN and not means_path(name):
        raise unknown_name(name, (*PLAIN, *KNOWN), "data set", "or give the path of a text file", "a text file")
    else:
        source = find_source(DataArguments(dataset=name), data_root)
        # What is held out for validation and test plays no part in choosing what is trained.
        split = "train" if "train" in source.splits else next(iter(source.splits))
        raw = _formatted(source.splits[split], source.format)
    # The last token is what is compared, and that should not be a blank.
    texts = [stripped for text in raw if (stripped := text.strip())]
    if not texts:
        raise UserError(f"found no text in {name}; need a file with at least one; give another sample")
    origin = path.name if path.is_file() else name
    return Sample(origin, tuple(draw_items(texts, count, seed, name, "texts")))


def draw_items(items: Sequence[Item], count: int, seed: int, source: object, noun: str) -> list[Item]:
    """Draw some items at random, in their own order.

    Args:
        items: to draw from.
        count: how many; all of them, with a warning, if there are fewer.
        seed: of the draw.
        source: where they are from, for the warning.
        noun: what they are, for the warning.
    """
    if len(items) < count:
        logger.warning("warning: %s has only %d of the %d %s that were requested", source, len(items), count, noun)
    indices = random.Random(seed).sample(range(len(items)), min(count, len(items)))
    return [items[index] for index in sorted(indices)]


def _texts_of_file(path: Path) -> list[str]:
    return _texts_of_rows(read_rows(path), str(path)) if extension(path) else _paragraphs(read_text(path))


def _paragraphs(content: str) -> list[str]:
    paragraphs = [part for part in re.split(r"\n(?:[ \t]*\n)+", content.replace("\r\n", "\n")) if part.strip()]
    return paragraphs if len(paragraphs) > 1 else content.splitlines()


def _texts_of_rows(rows: list[Row], name: str) -> list[str]:
    columns = columns_of(rows)
    column = next((column for column in TEXT_COLUMNS if column in columns), None)
    if column is not None:
        return parse_rows(rows, name, partial(optional, column=column), f"text in column {column}")
    try:
        form = format_of(rows)
    except UserError as error:
        raise UserError(
            f"{name} has the columns {', '.join(columns)}; need {', '.join(TEXT_COLUMNS)} or those of a prompt format; "
            "rename one"
        ) from error
    return _formatted(rows, form)


def _formatted(rows: list[Row], form: str) -> list[str]:
    groups = format_rows(rows, form, chat=False, need_answer=False)
    return [row["input"] + (row["output"] or "") for group in groups for row in group]


def encode(
    tokenizer: Any,
    sample: Sample,
    max_length: int,
    context: Context | None = None,
    begin: Sequence[int] | None = None,
) -> list[list[int]]:
    """Tokenise texts with the tokenizer's own special tokens; texts that are too long are cut at their end.

    A model is compared on what it is tuned on, so texts also begin as rows do in training.

    Args:
        tokenizer: the model's.
        sample: the texts.
        max_length: most tokens of a text, special ones included.
        context: what the model can read, if that is known.
        begin: what rows begin with in training; by default the begin token.

    Raises:
        UserError: no text has two tokens besides special ones, or one has a token that the model does not know.
    """
    context = context or Context()
    # Beyond what the model was made for layers differ in other ways than on the texts that it is for.
    max_length = max_length if context.tokens is None else min(max_length, context.tokens)
    rows = tokenizer(list(sample.texts), return_special_tokens_mask=True, verbose=False)
    counts = [mask.count(0) for mask in rows["special_tokens_mask"]]
    usable = [ids for ids, count in zip(rows["input_ids"], counts, strict=True) if count >= _LEAST_TOKENS]
    if not usable:
        raise UserError(
            f"found {len(counts)} texts in {sample.origin}, the longest with {max(counts)} token; need texts of at "
            f"least {_LEAST_TOKENS}; give another sample"
        )
    begin = begin_token(tokenizer) if begin is None else begin
    usable = [begun(ids, begin) for ids in usable]
    short, cut = len(counts) - len(usable), sum(len(ids) > max_length for ids in usable)
    if short:
        logger.info("note: %d of %d texts have fewer than %d tokens", short, len(counts), _LEAST_TOKENS)
    if cut:
        logger.info("note: %d of %d texts are cut to %d tokens", cut, len(usable), max_length)
    rows = [ids[:max_length] for ids in usable]
    context.require_embeddings(tokenizer, rows, f"{len(rows):,} texts")
    return rows


def measure(
    model: Any,
    tokenizer: Any,
    sample: Sample,
    name: str,
    max_length: int = MAX_LENGTH,
    batch_size: int = 8,
    rows: list[list[int]] | None = None,
    begin: Sequence[int] | None = None,
) -> Similarity:
    """Measure how similar the layers of a model are on texts.

    Args:
        model: of transformers, on any devices, quantised or not.
        tokenizer: its own.
        sample: the texts.
        name: the model's, or its folder; see `model_name`.
        max_length: most tokens of a text.
        batch_size: texts at once; the result does not depend on it beyond rounding.
        rows: what `encode` has made of the sample; None to do that now.
        begin: see `encode`.

    Raises:
        UserError: texts of one token, or a model without a stack of layers.
    """
    context = context_of(model.config)
    rows = encode(tokenizer, sample, max_length, context, begin) if rows is None else rows
    batches = _padded(rows, batch_size, padding_id(tokenizer, context))
    return compare_layers(model, batches, sample, name, len(rows), max_length)


def _padded(rows: Sequence[list[int]], size: int, padding: int) -> Iterator[dict[str, Tensor]]:
    """Yield batches of texts of similar length, padded on the right."""
    for indices in longest_first([len(row) for row in rows], size, Progress("similarity")):
        batch = [rows[index] for index in indices]
        longest = len(batch[0])
        ids = [row + [padding] * (longest - len(row)) for row in batch]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in batch]
        yield {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
