"""Conversations about images as text, by a chat template, and as tokens.

A conversation is cut where answers begin and end, so that each answer is learnt and its prompt has the same tokens when
it is answered. What is too long is cut at its end or left out, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jinja2

from sharelora.data.chat import find_template
from sharelora.data.vision.batches import ImageTextRows
from sharelora.data.vision.conversations import IMAGE, Conversation, Turn
from sharelora.data.vision.images import ImageReader
from sharelora.support.errors import UserError

# The processor's own template, which is handed images as parts of a turn rather than as a mark in its text.
OWN_TEMPLATE = "own"
BATCH = 1000
_FLAG = "--model_max_length (in sharelora similarity --max_length)"

Ids = list[int]


@dataclass(frozen=True)
class Piece:
    """A part of a conversation.

    Args:
        text: as the template writes it.
        learnt: whether it is an answer, whose tokens count in the loss.
    """

    text: str
    learnt: bool


class ConversationWriter:
    """Writes records as pieces that together are exactly the template's text.

    Args:
        reader: knows the place of an image.
        template: `own`, a name of `sharelora.data.chat.NAMED`, or a Jinja file.

    Raises:
        UserError: there is no such template.
    """

    def __init__(self, reader: ImageReader, template: str) -> None:
        self.reader, self.own = reader, template == OWN_TEMPLATE
        self.template = _own(reader.processor) if self.own else find_template(template, reader.tokenizer)

    def pieces(self, record: Conversation) -> list[Piece]:
        """Return questions and answers in turn; a question that comes last ends where its answer begins.

        Raises:
            UserError: the template refuses the conversation, changes its beginning, or does not show every image.
        """
        found: list[Piece] = []
        written = ""
        for end in range(1, len(record.turns) + 1, 2):
            asked = self._render(record, record.turns[:end], True)
            found.append(Piece(_after(written, asked, record), False))
            if end == len(record.turns):
                break
            written = self._render(record, record.turns[: end + 1], False).rstrip("\n")
            found.append(Piece(_after(asked, written, record), True))
        self._check_places(found, record)
        return found

    def _render(self, record: Conversation, turns: Sequence[Turn], prompt: bool) -> str:
        messages = [{"role": turn.role, "content": self._content(turn.text)} for turn in turns]
        try:
            return str(
                self.reader.tokenizer.apply_chat_template(
                    messages, chat_template=self.template, tokenize=False, add_generation_prompt=prompt
                )
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise UserError(f"the chat template refuses {record.name}: {error}; change one of them") from error

    def _content(self, text: str) -> Any:
        if not self.own:
            return text.replace(IMAGE, self.reader.place)
        first, *rest = text.split(IMAGE)
        parts: list[dict[str, str]] = [{"type": "text", "text": first}]
        for part in rest:
            # A template writes an image's surroundings by itself.
            parts += [{"type": "image"}, {"type": "text", "text": part.removeprefix("\n")}]
        return [part for part in parts if part.get("text") != ""]

    def _check_places(self, pieces: Sequence[Piece], record: Conversation) -> None:
        places = sum(piece.text.count(self.reader.place) for piece in pieces)
        if places != len(record.images):
            raise UserError(
                f"the chat template writes {places} places for the {len(record.images)} images of {record.name}; need "
                "one for each; choose another --chat_template"
            )


def _own(processor: Any) -> str:
    for holder in (processor, processor.tokenizer):
        if isinstance(holder.chat_template, str):
            return str(holder.chat_template)
    raise UserError("this model has no chat template of its own; need one; pass --chat_template vicuna or a Jinja file")


def _after(before: str, whole: str, record: Conversation) -> str:
    if not whole.startswith(before):
        raise UserError(
            f"the chat template does not keep what it wrote before ({record.name}); need one that goes on from it; "
            "pass --chat_template with such a file"
        )
    return whole[len(before) :]


@dataclass(frozen=True)
class EncodingReport:
    """What became of the rows of one split, lengths in tokens with those of images.

    Args:
        split: its name.
        rows: how many there were.
        limit: most tokens of a row.
        cut: rows that lost tokens at their end.
        left_out: rows with nothing left to learn, or without room for their images.
        without_image: rows of words alone.
        longest: of all rows, before any cut.
    """

    split: str
    rows: int
    limit: int
    cut: int
    left_out: int
    without_image: int
    longest: int

    def lines(self) -> list[str]:
        """One sentence for each thing that a person should know."""
        lost = f"longer than {self.limit} tokens (longest {self.longest}); raise {_FLAG}"
        said = [
            (self.cut, f"of {self.rows:,} rows lose their last tokens: {lost}"),
            (self.left_out, f"of {self.rows:,} rows are LEFT OUT, as nothing to learn is left of them: {lost}"),
            (self.without_image, f"of {self.rows:,} rows have no image"),
        ]
        return [f"{self.split}: {count:,} {text}" for count, text in said if count]

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, for result files."""
        return asdict(self)


def encode(
    writer: ConversationWriter, records: Sequence[Conversation], limit: int, split: str
) -> tuple[ImageTextRows, EncodingReport]:
    """Tokenise records; questions and answers each by themselves, so a prompt has the same tokens when it is answered.

    Args:
        writer: writes them as text.
        records: conversations that end with an answer.
        limit: most tokens of a row.
        split: its name in the report.

    Raises:
        UserError: no row is left.
    """
    rows = [row for start in range(0, len(records), BATCH) for row in tokenise(writer, records[start : start + BATCH])]
    extra = writer.reader.count - 1
    lengths = [len(ids) + len(record.images) * extra for record, (ids, _) in zip(records, rows, strict=True)]
    kept = [_cut(record, row, limit, writer) for record, row in zip(records, rows, strict=True)]
    good = [place for place, row in enumerate(kept) if row is not None]
    report = EncodingReport(
        split,
        len(records),
        limit,
        cut=sum(lengths[place] > limit for place in good),
        left_out=len(records) - len(good),
        without_image=sum(not record.images for record in records),
        longest=max(lengths, default=0),
    )
    if not good:
        raise UserError(f"found no {split} row that fits into {limit} tokens; need some; raise {_FLAG}")
    found = [row for row in kept if row is not None]
    ids, learnt = [row[0] for row in found], [row[1] for row in found]
    return ImageTextRows(writer.reader, [records[place] for place in good], ids, learnt), report


def tokenise(writer: ConversationWriter, records: Sequence[Conversation]) -> list[tuple[Ids, list[bool]]]:
    """Tokenise conversations; one that ends with a question ends where its answer would begin.

    Returns:
        For each its ids, with a single one for each image, and which of them are learnt.
    """
    reader, tokenizer = writer.reader, writer.reader.tokenizer
    parted = [writer.pieces(record) for record in records]
    spaced = _adds_space(tokenizer)
    texts = [
        (piece.text.removeprefix(" ") if spaced and piece.learnt else piece.text).replace(reader.place, reader.written)
        for pieces in parted
        for piece in pieces
    ]
    tokens = iter(tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"])
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    found = []
    for pieces in parted:
        parts = [(next(tokens), piece.learnt) for piece in pieces]
        # Some templates write the begin token themselves.
        start = [] if parts[0][0][:1] == begin else begin
        ids = [*start, *(token for part, _ in parts for token in part)]
        found.append((ids, [False] * len(start) + [learnt for part, learnt in parts for _ in part]))
    return found


def _adds_space(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a space before every text by itself, as SentencePiece does."""
    first = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"][:1])
    return bool(first) and str(first[0]).startswith("▁")


def _cut(
    record: Conversation, row: tuple[Ids, list[bool]], limit: int, writer: ConversationWriter
) -> tuple[Ids, list[bool]] | None:
    """Keep the first tokens; None where the images have no room or nothing to learn is left."""
    ids, learnt = row
    room = limit - len(record.images) * (writer.reader.count - 1)
    if len(ids) <= room:
        return row
    kept = ids[: max(room, 0)]
    whole = kept.count(writer.reader.token_id) == len(record.images)
    return (kept, learnt[: len(kept)]) if whole and any(learnt[: len(kept)]) else None
