"""Conversations as text: a chat template's, cut where answers begin and end, with the model's own place for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from sharelora.data.chat import find_template
from sharelora.data.vision.images import ImageReader
from sharelora.data.vision.records import IMAGE, Record, Turn
from sharelora.support.errors import UserError

# The processor's own template, which is handed images as parts of a turn rather than as a mark in its text.
OWN_TEMPLATE = "own"


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

    def pieces(self, record: Record) -> list[Piece]:
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

    def _render(self, record: Record, turns: Sequence[Turn], prompt: bool) -> str:
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

    def _check_places(self, pieces: Sequence[Piece], record: Record) -> None:
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


def _after(before: str, whole: str, record: Record) -> str:
    if not whole.startswith(before):
        raise UserError(
            f"the chat template does not keep what it wrote before ({record.name}); need one that goes on from it; "
            "pass --chat_template with such a file"
        )
    return whole[len(before) :]
