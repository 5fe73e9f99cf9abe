"""Conversations about images, read from LLaVA's json and checked one by one.

    [{"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
                                                     {"from": "gpt", "value": "A fox."}]}, ...]

`image` may also be a list. A row without an image is a conversation in words alone, as LLaVA-1.5's own mix has them.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.chat import ROLES
from sharelora.data.folders import read_table
from sharelora.data.rows import Row, place, summary
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

IMAGE = "<image>"
COLUMNS = ("id", "image", "conversations")


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Args:
        role: `user` or `assistant`; they take turns, the user first.
        text: the words, of a user also with `<image>` where an image belongs.
    """

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """One conversation about images.

    Args:
        name: the row and its id, for messages.
        images: files, in the order of their places in the text.
        turns: who says what.
    """

    name: str
    images: tuple[Path, ...]
    turns: tuple[Turn, ...]


def read_conversations(
    source: str | Path, image_folder: str | Path | None = None, need_answer: bool = True, split: str = "train"
) -> list[Conversation]:
    """Read every row of a file, or of a folder's split.

    Args:
        source: what `read_table` takes, with rows as in LLaVA's json.
        image_folder: what the images' names are relative to; by default the folder, or the file's own.
        need_answer: leave out a last question without an answer; otherwise it is kept, to be answered.
        split: of a folder.

    Raises:
        UserError: see `read_table`; the first malformed row, or the first with more or fewer places for images than
            images.
    """
    path = Path(source).expanduser()
    own_folder = path if path.is_dir() else path.parent
    folder = own_folder if image_folder is None else Path(image_folder).expanduser()
    rows = read_table(path, split)
    unused = Counter(column for row in rows for column, value in row.items() if column not in COLUMNS and value)
    if unused:
        columns = ", ".join(f"{column} ({count:,} of {len(rows):,} rows)" for column, count in unused.items())
        logger.info("%s: columns that are not used: %s", path.name, columns)
    return [_conversation(row, place(row, number), folder, need_answer) for number, row in enumerate(rows, 1)]


def _conversation(row: Row, where: str, folder: Path, need_answer: bool) -> Conversation:
    name = f"{where} (id {row['id']})" if "id" in row else where
    turns = _turns(row.get("conversations"), name, need_answer)
    images = _images(row.get("image"), name)
    stray = sum(turn.text.count(IMAGE) for turn in turns if turn.role == "assistant")
    if stray:
        raise UserError(f"{name} has {stray} {IMAGE} in an answer; an answer is words alone; correct the row")
    places = sum(turn.text.count(IMAGE) for turn in turns)
    if places != len(images):
        raise UserError(
            f"{name} has {places} {IMAGE} places and {len(images)} images; need as many places as images; write "
            f"{IMAGE} into what the human says, once for every image"
        )
    return Conversation(name, tuple(folder / image for image in images), turns)


def _images(value: Any, name: str) -> list[str]:
    images = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(image, str) and image for image in images):
        raise UserError(
            f"{name} has the image {summary(repr(value))}; need a file's name or a list of them; correct the row"
        )
    return images


def _turns(value: Any, name: str, need_answer: bool) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{name} has no list of turns in `conversations`; need LLaVA's json; correct the row")
    turns = tuple(_turn(turn, name) for turn in value)
    # ShareGPT's conversations sometimes begin with an answer; LLaVA leaves that out too.
    turns = turns[1:] if turns[0].role == "assistant" else turns
    roles = [turn.role for turn in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2) + ["user"] * (len(turns) % 2):
        raise UserError(f"{name} has the turns {', '.join(roles)}; human and gpt must take turns; correct the row")
    if need_answer and roles[-1] != "assistant":
        # A last question without an answer has nothing to learn from.
        turns = turns[:-1]
    if need_answer and not turns:
        raise UserError(f"{name} has no answer of gpt; need one to learn from; correct the row")
    return turns


def _turn(turn: Any, name: str) -> Turn:
    text, role = (turn.get("value"), turn.get("from")) if isinstance(turn, dict) else (None, None)
    if not isinstance(role, str) or role not in ROLES or not isinstance(text, str):
        raise UserError(f"{name} has the turn {turn!r}; need `from` human or gpt, and `value` as text; correct the row")
    return Turn(ROLES[role], text)
