"""Secrets stay out of what is printed or written: values of flags that take one, and words that look like one."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "***"
_FLAG = re.compile(r"--?[\w-]*(token|api[-_]key|password|secret)", re.IGNORECASE)
# What the model hub's tokens look like.
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{6,}")
# Such flags also take a word that says where the secret is.
_OPEN = ("true", "false", "none", "")


def hide(text: str) -> str:
    """Return a text without anything that looks like a token."""
    return _TOKEN.sub(f"hf_{HIDDEN}", text)


def redacted(words: Iterable[str]) -> list[str]:
    """Return the words of a command line without the values of flags that take a secret.

    Args:
        words: flags and values; a value stands behind its flag or after an equals sign.
    """
    found: list[str] = []
    secret = False
    for word in words:
        name, separator, value = word.partition("=")
        takes_one = _FLAG.fullmatch(name) is not None
        if takes_one and separator:
            found.append(f"{name}={_hidden(value)}")
        else:
            found.append(_hidden(word) if secret and not word.startswith("--") else hide(word))
        secret = takes_one and not separator
    return found


def _hidden(value: str) -> str:
    return value if value.lower() in _OPEN else HIDDEN
