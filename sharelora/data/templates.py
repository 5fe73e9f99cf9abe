"""Chat templates: programs that write a conversation as text, found by name, and run so that what fails is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jinja2

from sharelora.support.errors import UserError
from sharelora.support.reading import read_text
from sharelora.support.text import nearest, one_line

NAMED = {
    "chatml": (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # LLaVA-1.5's: haotian-liu/LLaVA, llava/conversation.py, conv_vicuna_v1. A system message takes the first sentences'
    # place.
    "vicuna": (
        "{% if messages and messages[0].role == 'system' %}{{ messages[0].content }}{% else %}"
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions."
        "{% endif %} "
        "{% for turn in messages if turn.role != 'system' %}"
        "{% if turn.role == 'user' %}USER: {{ turn.content }} ASSISTANT:"
        "{% else %} {{ turn.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
}
OWN = "tokenizer"
# The name of a model's template for everything where it has several.
DEFAULT = "default"

Turn = Mapping[str, Any]
# A conversation that shows what a template writes between turns.
_QUESTION, _ANSWER = "Is water wet", "Yes it is"
_PROBE = (
    {"role": "user", "content": _QUESTION},
    {"role": "assistant", "content": _ANSWER},
    {"role": "user", "content": _QUESTION},
)


def find_template(name: str | None, tokenizer: Any) -> str:
    """Return the Jinja text of a chat template.

    Args:
        name: a key of `NAMED`, a file, the name of one of several templates of the tokenizer, or `tokenizer` or None
            for its own, the one called `default` where it has several.

    Raises:
        UserError: there is none.
    """
    own = tokenizer.chat_template
    several: dict[str, str] = own if isinstance(own, dict) else {}
    if name in several:
        return several[name]
    if name in NAMED:
        return NAMED[name]
    if name is None or name == OWN:
        return _own(own, several)
    try:
        return read_text(name)
    except UserError as error:
        known = [OWN, *NAMED, *several]
        near = nearest(name, known)
        raise UserError(
            f"found chat_template {name}, which cannot be read as a file ({error}); need one of {', '.join(known)}, "
            f"or a Jinja file; {f'did you mean {near[0]}?' if near else 'change --chat_template'}"
        ) from error


def _own(own: Any, several: Mapping[str, str]) -> str:
    if isinstance(own, str):
        return own
    if DEFAULT in several:
        return several[DEFAULT]
    if several:
        raise UserError(
            f"this tokenizer has the chat templates {', '.join(several)} and none called {DEFAULT}; need one; pass "
            f"--chat_template {next(iter(several))}"
        )
    raise UserError(
        f"this tokenizer has no chat template; need one for conversations; "
        f"pass --chat_template {' or '.join(NAMED)}, or a Jinja file"
    )


class ChatTemplate:
    """Writes conversations as a template does, without what some templates append to every one.

    The first templates of Llama 3 and 3.1 end every text with the header of a next answer, asked for or not. Behind an
    answer that would be learnt, so it is taken off.

    Args:
        text: the template.
        tokenizer: runs it, with its own special tokens.
    """

    def __init__(self, text: str, tokenizer: Any) -> None:
        self.text, self.tokenizer = text, tokenizer

    def write(self, turns: Sequence[Turn], prompt: bool, where: str = "", tools: Any = None) -> str:
        """Write a conversation.

        Args:
            turns: messages with `role` and `content`.
            prompt: end where the assistant's next answer begins.
            where: the row, for messages.
            tools: JSON schemas of functions.

        Raises:
            UserError: the template is no Jinja, or refuses the conversation.
        """
        try:
            text = self._render(turns, prompt, tools)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"the chat template has an error in line {error.lineno}: {one_line(error)}; need Jinja; correct it, or "
                "pass another --chat_template"
            ) from error
        # A template is a program that somebody else wrote: it may raise anything.
        except Exception as error:
            reason = one_line(error)
            if not isinstance(error, jinja2.TemplateError):
                reason = f"{type(error).__name__}: {reason}"
            raise UserError(
                f"{where}{': ' if where else ''}the chat template refuses a conversation: {reason}; need one that it "
                "takes; change or remove the row, or pass another --chat_template"
            ) from error
        return text if prompt else text.removesuffix(self._unasked)

    def _render(self, turns: Sequence[Turn], prompt: bool, tools: Any = None) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                list(turns), tools=tools, chat_template=self.text, tokenize=False, add_generation_prompt=prompt
            )
        )

    @cached_property
    def _unasked(self) -> str:
        """The header of an answer that the template appends to every conversation; mostly none.

        It is found by what follows an answer: its end and that header where nothing else comes, its end and the header
        of a question where one does. What the two have in common is the end, and perhaps the beginning of any header;
        with such a beginning the whole text starts.
        """
        try:
            asked, plain = (self._render(_PROBE[:1], prompt) for prompt in (True, False))
            answered, continued = self._render(_PROBE[:2], False), self._render(_PROBE, False)
        # A template that takes no such conversation is judged by the rows.
        except Exception:
            return ""
        if asked != plain or not all(_ANSWER in text for text in (answered, continued)):
            return ""
        last, between = (text.partition(_ANSWER)[2] for text in (answered, continued))
        between = between.partition(_QUESTION)[0]
        common = next((i for i, pair in enumerate(zip(last, between, strict=False)) if pair[0] != pair[1]), None)
        common = min(len(last), len(between)) if common is None else common
        start = plain.removeprefix(self.tokenizer.bos_token or "")
        end = next(index for index in range(common + 1) if start.startswith(last[index:common]))
        header = last[end:]
        return header if header and asked.endswith(header) else ""
