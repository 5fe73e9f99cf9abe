"""Secrets: whatever the environment, flags and URLs give as a key stands in no message, log, file or traceback.

A secret is found by its value, wherever it is quoted, and where its form gives it away: the hub's tokens, and passwords
and keys inside URLs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

HIDDEN = "***"
# Flags, variables of the environment and fields of a URL whose value is a secret.
_FLAG = re.compile(r"--?[\w-]*(token|api[-_]key|password|secret)", re.IGNORECASE)
_VARIABLE = re.compile(r"(.*_)?(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)", re.IGNORECASE)
_FIELD = r"[\w.-]*(?:token|key|secret|password|passwd|credential|signature|auth)[\w.-]*"
# What the model hub's tokens look like: of users, of organisations, and of those who signed in through another site.
# Names of data sets and folders begin in the same way (`hf_codealpaca`), but none has so long a word without a break.
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(hf_|api_org_)[A-Za-z0-9]{34,}|(?<![A-Za-z0-9])(hf_oauth_)[\w.-]{34,}")
_USER = re.compile(r"(?<=://)([^\s/?#'\"<>]*)@")
_QUERY = re.compile(rf"(?<=[?&])({_FIELD}=)[^\s&#'\";,)>]+", re.IGNORECASE)
_LEAST_LENGTH = 8  # of a secret; a shorter value would be found in ordinary words
# Values of such flags that are not secrets: they say where the secret is, if anywhere.
_NO_SECRET = ("true", "false", "none", "")

_kept: set[str] = set()


def keep(secret: str) -> None:
    """Remember a secret that does not come from the environment, so that it is hidden from now on."""
    _kept.add(secret)


def keep_words(words: Iterable[str]) -> None:
    """Remember the secrets of a command line: values of flags that take one, and those in URLs.

    Args:
        words: flags and values; a value follows its flag or an equals sign.
    """
    for _, value, secret in _values(words):
        if secret:
            keep(value)
        elif "://" in value:
            keep_url(value.partition("=")[2] if value.startswith("--") else value)


def keep_url(url: str) -> None:
    """Remember the password and the keys inside a URL."""
    with contextlib.suppress(ValueError):  # no URL
        parts = urlsplit(url)
        user = parts.username if parts.password is None else parts.password
        fields = parse_qsl(parts.query)
        found = [user or "", *(value for name, value in fields if re.fullmatch(_FIELD, name, re.IGNORECASE))]
        for secret in found:
            keep(secret)
            keep(unquote(secret))


def _values(words: Iterable[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield every word as what stands before its value, the value, and whether that is a secret."""
    secret = False
    for word in words:
        name, separator, value = word.partition("=")
        takes_one = _FLAG.fullmatch(name) is not None
        if takes_one and separator:
            yield f"{name}=", value, value.lower() not in _NO_SECRET
        else:
            yield "", word, secret and not word.startswith("--") and word.lower() not in _NO_SECRET
        secret = takes_one and not separator


def redacted(words: Iterable[str]) -> list[str]:
    """Return the words of a command line without secrets.

    Args:
        words: as in `keep_words`.
    """
    return [before + (HIDDEN if secret else hide(value)) for before, value, secret in _values(words)]


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret in the spellings in which files and messages quote it."""
    yield from (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
    yield quote(secret, safe="")


def _hider() -> Callable[[str], str]:
    """Return what hides the secrets that are known now."""
    values = {value.strip() for name, value in os.environ.items() if _VARIABLE.fullmatch(name)}
    values |= {value.strip() for value in _kept}
    known = {form for value in values if len(value) >= _LEAST_LENGTH for form in _forms(value)}
    # A longer one first: it may begin with a shorter one.
    ordered = sorted(known, key=lambda form: (-len(form), form))
    by_value = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def hide(text: str) -> str:
        text = _TOKEN.sub(lambda match: f"{match[1] or match[2]}{HIDDEN}", text)
        text = text if by_value is None else by_value.sub(HIDDEN, text)
        if "://" in text:
            text = _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(_without_password, text))
        return text

    return hide


def _without_password(match: re.Match[str]) -> str:
    name, colon, _ = match[1].partition(":")
    return match[0] if HIDDEN in match[1] else f"{name if colon else ''}{colon}{HIDDEN}@"


def hide(text: str) -> str:
    """Return a text without secrets."""
    return _hider()(text)


def hidden(value: Any) -> Any:
    """Return JSON data without secrets in its texts; numbers stay as they are."""
    clean = _hider()

    def inside(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: inside(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [inside(item) for item in value]
        return clean(value) if type(value) is str else value

    return inside(value)


class _Clean:
    """A stream that writes no secrets; in all else it is the stream itself."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text without secrets."""
        self._stream.write(hide(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts without secrets."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def clean_output() -> Iterator[None]:
    """Let whatever this process prints have no secrets: messages, logs, warnings, tracebacks, of any library."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Clean, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
