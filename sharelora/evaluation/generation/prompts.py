"""Prompts as tokens, and whether they leave room for a text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sharelora.evaluation.encoding import Encoded, encode_prompts, too_long
from sharelora.evaluation.generation.settings import GenerationSettings, Prompt
from sharelora.support.errors import UserError


def encode(tokenizer: Any, prompts: Sequence[Prompt]) -> list[Encoded]:
    """Tokenise prompts; every one is tokenised whole, so sharing a prefix changes no token.

    They begin with the start token if the tokenizer has one, as in training.

    Raises:
        UserError: a prompt has no tokens.
    """
    parts = encode_prompts(tokenizer, [(prompt.prefix, prompt.text) for prompt in prompts])
    found = [Encoded(start, rest, group=prompt.name) for prompt, (start, rest) in zip(prompts, parts, strict=True)]
    empty = [place for place, row in enumerate(found) if not row.length]
    if empty:
        raise UserError(
            f"found {len(empty)} prompts without tokens, first number {empty[0] + 1}; need text; check them"
        )
    return found


def require_room(encoded: Sequence[Encoded], settings: GenerationSettings, context: int | None) -> None:
    """Refuse prompts that do not fit into the model's context together with a text; nothing is ever cut.

    Args:
        encoded: the prompts.
        settings: of the generation.
        context: most tokens that the model can read; None for no limit.

    Raises:
        UserError: how many there are, and the longest.
    """
    if context is None:
        return
    new = settings.max_new_tokens
    if new >= context:
        raise UserError(f"found --max_new_tokens {new} and a context of {context}; need room for a prompt; lower it")
    long = too_long(encoded, context - new)
    if long:
        raise UserError(
            f"found {len(long)} of {len(encoded)} prompts with more than {context - new} tokens, the longest "
            f"{max(encoded[place].length for place in long)}; need prompt and {new} new tokens within {context}; lower "
            "--max_new_tokens, give fewer examples, or use a model with a longer context"
        )


def fingerprint(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return what tells these prompts from others."""
    texts = [[prompt.prefix + prompt.text, prompt.name] for prompt in prompts]
    return {"prompts": len(texts), "prompts_sha256": hashlib.sha256(json.dumps(texts).encode()).hexdigest()}
