"""Conversations about images as text, by a chat template, and as tokens.

A conversation is cut where answers begin and end, so that each answer is learnt and its prompt has the same tokens when
it is answered. What is too long is cut at its end or left out, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sharelora.data.begin import begin_token
from sharelora.data.context import Context
from sharelora.data.templates import DEFAULT, ChatTemplate, find_template
from sharelora.data.tokenise import BATCH, Ids, adds_space, token_ids
from sharelora.data.vision.batches import ImageTextRows
from sharelora.data.vision.conversations import IMAGE, Conversation, Turn
from sharelora.data.vision.images import ImageReader
from sharelora.support.errors import UserError

# The processor's own template, which is handed images as parts of a turn rather than as a mark in its text.
OWN_TEMPLATE = "own"
_FLAG = "--model_max_length (in sharelora similarity --max_length)"


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
    """Writes conversations as pieces that together are exactly the template's text.

    Args:
        reader: says what an image is in a text.
        template: `own`, a name of `sharelora.data.chat.NAMED`, or a Jinja file.

    Raises:
        UserError: an unknown template.
    """

    def __init__(self, reader: ImageReader, template: str) -> None:
        self.reader, self.own = reader, template == OWN_TEMPLATE
        text = _own_template(reader.processor) if self.own else find_template(template, reader.tokenizer)
        self.template = ChatTemplate(text, reader.tokenizer)

    def pieces(self, conversation: Conversation) -> list[Piece]:
        """Return questions and answers in turn; a question that comes last ends where its answer begins.

        Raises:
            UserError: the template refuses the conversation, changes its beginning, or does not show every image.
        """
        pieces: list[Piece] = []
        written = ""
        for end in range(1, len(conversation.turns) + 1, 2):
            prompt = self._render(conversation, conversation.turns[:end], True)
            pieces.append(Piece(_after(written, prompt, conversation), False))
            if end == len(conversation.turns):
                break
            written = self._render(conversation, conversation.turns[: end + 1], False).rstrip("\n")
            pieces.append(Piece(_after(prompt, written, conversation), True))
        places, images = sum(piece.text.count(self.reader.placeholder) for piece in pieces), len(conversation.images)
        if places != images:
            raise UserError(
                f"the chat template writes {places} places for the {images} images of {conversation.name}; need one "
                "for each; choose another --chat_template"
            )
        return pieces

    def _render(self, conversation: Conversation, turns: Sequence[Turn], prompt: bool) -> str:
        messages = [{"role": turn.role, "content": self._content(turn.text)} for turn in turns]
        return self.template.write(messages, prompt, conversation.name)

    def _content(self, text: str) -> Any:
        if not self.own:
            return text.replace(IMAGE, self.reader.placeholder)
        first, *rest = text.split(IMAGE)
        parts: list[dict[str, str]] = [{"type": "text", "text": first}]
        for part in rest:
            # A template writes an image's surroundings by itself.
            parts += [{"type": "image"}, {"type": "text", "text": part.removeprefix("\n")}]
        return [part for part in parts if part.get("text") != ""]


def _own_template(processor: Any) -> str:
    for holder in (processor, processor.tokenizer):
        template = holder.chat_template
        template = template.get(DEFAULT) if isinstance(template, dict) else template
        if isinstance(template, str):
            return template
    raise UserError("this model has no chat template; need one; pass --chat_template vicuna or a Jinja file")


def _after(before: str, whole: str, conversation: Conversation) -> str:
    if not whole.startswith(before):
        raise UserError(
            f"the chat template does not keep what it wrote before ({conversation.name}); need one that continues it; "
            "pass --chat_template with such a file"
        )
    return whole[len(before) :]


@dataclass(frozen=True)
class EncodingReport:
    """Rows of one split that were cut or left out; lengths in tokens, those of images included.

    Args:
        split: its name.
        rows: how many there were.
        limit: most tokens of a row.
        cut: rows that lost tokens at their end.
        left_out: rows with nothing left to learn, or without room for their images.
        without_image: rows of only text.
        longest: of all rows, before any cut.
        positions: most tokens of a row that the model was made for; None if nothing limits them.
        beyond_positions: rows that are longer as they are used, which a model with computed positions reads on.
    """

    split: str
    rows: int
    limit: int
    cut: int
    left_out: int
    without_image: int
    longest: int
    positions: int | None = None
    beyond_positions: int = 0

    def lines(self) -> list[str]:
        """One sentence for each kind of row that is not learnt whole."""
        remedy = f"raise {_FLAG}" if self.limit != self.positions else "the model has no more positions"
        lost = f"longer than {self.limit} tokens (longest {self.longest}); {remedy}"
        counts = [
            (self.cut, f"of {self.rows:,} rows lose their last tokens: {lost}"),
            (self.left_out, f"of {self.rows:,} rows are LEFT OUT, as nothing to learn is left of them: {lost}"),
            (
                self.beyond_positions,
                f"of {self.rows:,} rows are longer than the {self.positions} positions that the model was made for; "
                f"lower {_FLAG}",
            ),
            (self.without_image, f"of {self.rows:,} rows have no image"),
        ]
        return [f"{self.split}: {count:,} {text}" for count, text in counts if count]

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, for result files."""
        return asdict(self)


def encode(
    writer: ConversationWriter,
    conversations: Sequence[Conversation],
    limit: int,
    split: str,
    context: Context | None = None,
) -> tuple[ImageTextRows, EncodingReport]:
    """Tokenise conversations for training.

    Args:
        writer: writes them as text.
        conversations: conversations that end with an answer.
        limit: most tokens of a row.
        split: its name in the report.
        context: what the language model can read; None if that is not known.

    Raises:
        UserError: no row is left, or a token that the model does not know.
    """
    context = context or Context()
    limit = context.within(limit)
    rows: list[tuple[Ids, list[bool]]] = []
    # In parts, so that half a million conversations are never all in memory as text.
    for start in range(0, len(conversations), BATCH):
        rows += tokenise(writer, conversations[start : start + BATCH])
    pairs = list(zip(conversations, rows, strict=True))
    # An image is a single token in `ids` and `count` tokens in the model.
    lengths = [len(ids) + len(of.images) * (writer.reader.count - 1) for of, (ids, _) in pairs]
    shortened = [_cut(of, row, limit, writer) for of, row in pairs]
    usable = [(index, row) for index, row in enumerate(shortened) if row is not None]
    report = EncodingReport(
        split,
        len(conversations),
        limit,
        cut=sum(lengths[index] > limit for index, _ in usable),
        left_out=len(conversations) - len(usable),
        without_image=sum(not conversation.images for conversation in conversations),
        longest=max(lengths, default=0),
        positions=context.tokens,
        beyond_positions=sum(context.too_long(min(lengths[index], limit)) for index, _ in usable),
    )
    if not usable:
        raise UserError(f"found no {split} row that fits into {limit} tokens; need some; raise {_FLAG}")
    tokens, learnt = [ids for _, (ids, _) in usable], [marks for _, (_, marks) in usable]
    require_embeddings(writer, tokens, context, f"{len(tokens):,} {split} rows")
    return ImageTextRows(writer.reader, [conversations[index] for index, _ in usable], tokens, learnt), report


def require_embeddings(writer: ConversationWriter, rows: Sequence[Sequence[int]], context: Context, what: str) -> None:
    """Refuse tokens that the model does not know; an image's is none of its own in some models.

    Raises:
        UserError: see `Context.require_embeddings`.
    """
    texts = ([token for token in row if token != writer.reader.token_id] for row in rows)
    context.require_embeddings(writer.reader.tokenizer, texts, what)


def tokenise(
    writer: ConversationWriter, conversations: Sequence[Conversation], begin: Sequence[int] | None = None
) -> list[tuple[Ids, list[bool]]]:
    """Tokenise conversations; one that ends with a question ends where its answer would begin.

    Questions and answers are tokenised each by themselves, so a prompt has the same tokens when it is answered.

    Args:
        writer: writes them as text.
        conversations: what to tokenise.
        begin: what each begins with; by default the begin token, as in training.

    Returns:
        For each its ids, with a single one for each image, and which of them are learnt.
    """
    reader, tokenizer = writer.reader, writer.reader.tokenizer
    parted = [writer.pieces(conversation) for conversation in conversations]
    spaced = adds_space(tokenizer)
    texts = [
        (piece.text.removeprefix(" ") if spaced and piece.learnt else piece.text).replace(
            reader.placeholder, reader.written
        )
        for pieces in parted
        for piece in pieces
    ]
    tokens = iter(token_ids(tokenizer, texts))
    begin = begin_token(tokenizer) if begin is None else list(begin)
    encoded = []
    for pieces in parted:
        parts = [(next(tokens), piece.learnt) for piece in pieces]
        # Some templates write the begin token themselves.
        start = [] if parts[0][0][: len(begin)] == begin else begin
        ids = [*start, *(token for part, _ in parts for token in part)]
        encoded.append((ids, [False] * len(start) + [learnt for part, learnt in parts for _ in part]))
    return encoded


def _cut(
    conversation: Conversation, row: tuple[Ids, list[bool]], limit: int, writer: ConversationWriter
) -> tuple[Ids, list[bool]] | None:
    """Keep the first tokens; None where the images have no room or nothing to learn is left."""
    ids, learnt = row
    room = limit - len(conversation.images) * (writer.reader.count - 1)
    if len(ids) <= room:
        return row
    head = ids[: max(room, 0)]
    whole = head.count(writer.reader.token_id) == len(conversation.images)
    return (head, learnt[: len(head)]) if whole and any(learnt[: len(head)]) else None
