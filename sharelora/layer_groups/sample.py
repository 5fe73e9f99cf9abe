"""A sample of texts from anywhere: a text file, a table with a column of text, or a data set by its name."""

from __future__ import annotations

import hashlib
import logging
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharelora.data.arguments import DataArguments
from sharelora.data.formats import format_by_columns, format_rows
from sharelora.data.instructions import find_source
from sharelora.data.registry import KNOWN
from sharelora.data.rows import Row, extension, read_rows, read_text
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

# Columns that hold a whole text, in the order in which they are looked for.
TEXT_COLUMNS = ("text", "content", "sentence")


@dataclass(frozen=True)
class Sample:
    """Texts and where they are from.

    Attributes:
        origin: the file, or the data set's name.
        texts: none of them empty, without blanks around them.
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

    A text file has paragraphs with empty lines between them, or without any a text in every line. A table (JSON Lines,
    JSON, CSV, TSV, Parquet) has a column `text`, `content` or `sentence`, or the columns of a prompt format; prompt and
    answer are then one text.

    Args:
        name: a file, or a data set that is known by name.
        count: how many to draw at random; all if there are no more, which is said.
        seed: of the draw.
        data_root: folder of local data; by default the environment variable SHARELORA_DATA.

    Raises:
        UserError: no such file or data set, or nothing in it that is text.
    """
    path = Path(name).expanduser()
    if name not in KNOWN and path.is_file():
        found = _of_rows(read_rows(path), name) if extension(path) else _of_text(read_text(path))
    else:
        found = _of_data_set(name, data_root)
    # What is compared is the last token, and that should not be a blank.
    texts = [stripped for text in found if (stripped := text.strip())]
    if not texts:
        raise UserError(f"found no text in {name}; need a file with at least one; give another sample")
    if len(texts) < count:
        logger.warning("warning: %s has only %d of the %d texts that are asked for", name, len(texts), count)
    return Sample(path.name if path.is_file() else name, tuple(_drawn(texts, count, seed)))


def _drawn(texts: Sequence[str], count: int, seed: int) -> list[str]:
    places = random.Random(seed).sample(range(len(texts)), min(count, len(texts)))
    return [texts[place] for place in sorted(places)]


def _of_text(content: str) -> list[str]:
    paragraphs = [part for part in re.split(r"\n(?:[ \t]*\n)+", content.replace("\r\n", "\n")) if part.strip()]
    return paragraphs if len(paragraphs) > 1 else content.splitlines()


def _of_rows(rows: list[Row], name: str) -> list[str]:
    column = next((column for column in TEXT_COLUMNS if column in rows[0]), None)
    if column is not None:
        return [str(row.get(column) or "") for row in rows]
    try:
        form = format_by_columns(list(rows[0]))
    except UserError as error:
        raise UserError(
            f"{name} has the columns {', '.join(rows[0])}; need {', '.join(TEXT_COLUMNS)} or those of a prompt format; "
            "rename one"
        ) from error
    return _formatted(rows, form)


def _of_data_set(name: str, data_root: Path | None) -> list[str]:
    source = find_source(DataArguments(dataset=name), data_root)
    # What is held out for validation and test plays no part in choosing what is trained.
    split = "train" if "train" in source.splits else next(iter(source.splits))
    return _formatted(source.splits[split], source.format)


def _formatted(rows: list[Row], form: str) -> list[str]:
    groups = format_rows(rows, form, chat=False, need_answer=False)
    return [row["input"] + (row["output"] or "") for group in groups for row in group]
