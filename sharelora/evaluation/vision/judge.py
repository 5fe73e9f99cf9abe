"""A judge that gives points to two answers: any server that speaks OpenAI's chat completions.

Nothing is sent anywhere unless `--judge_url` says where. It is sent the question, the image in words and both answers.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from sharelora.data.vision.bench import PREFIX, BenchQuestion
from sharelora.support.errors import UserError
from sharelora.support.reading import misfit, parse_json, read_json
from sharelora.support.secrets import keep, keep_url
from sharelora.support.text import one_line

# LLaVA's mark of a rating without points.
NO_POINTS = (-1.0, -1.0)
_TASK = (
    "Two assistants have answered the question about a picture. You cannot see it; the description above says what is "
    "in it. Rate each answer from 1 to 10 for being helpful, relevant, accurate and detailed. Write first a single "
    "line with only the two numbers, of the first and of the second assistant, with a space between them. Then explain "
    "your numbers, without letting the order of the answers count."
)
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_MOST_BYTES, _PART = 4 * 2**20, 2**16  # of an answer, and of what is read of it at once

T = TypeVar("T")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: another host would get the key and the answers, and its words would count."""

    def redirect_request(self, *args: Any) -> None:
        """Return no further request, which makes an error of the status."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """Do work that must end in time, whatever it waits for: a timeout of sockets begins again with every byte.

    Args:
        seconds: after which the work is left behind.
        work: returns the result.

    Raises:
        TimeoutError: it has not ended by then.
    """
    done: Queue[tuple[T | None, BaseException | None]] = Queue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = done.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no whole answer within {seconds:g} seconds") from None
    if error is not None:
        raise error
    return cast(T, result)


@dataclass(frozen=True)
class Judge:
    """Where to ask, and how.

    Args:
        url: the base URL, without `/chat/completions`, e.g. http://localhost:8000/v1. A name and a password in it are
            sent where there is no key.
        model: the name of the judge's model.
        key_variable: the environment variable that holds a key, if the server wants one.
        rules: LLaVA's rule.json, for its wording of the task; None for this project's.
        seconds: for a whole answer, from the look-up of the host to the last byte.
        tries: how often to ask where errors are transient.
        pause: seconds before the second try; twice as long before each further one.
    """

    url: str
    model: str
    key_variable: str = "SHARELORA_JUDGE_KEY"
    rules: Mapping[str, Mapping[str, str]] | None = None
    seconds: float = 120.0
    tries: int = 4
    pause: float = field(default=2.0, compare=False)

    def __post_init__(self) -> None:
        keep_url(self.url)
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is none, or half an address
            known = False
        if not known:
            raise UserError(
                f"found --judge_url {self.url}; need one that begins with http:// or https:// and has a host; "
                "correct it"
            )

    def message(self, question: BenchQuestion, caption: str, reference: str, answer: str) -> str:
        """Return the message to the judge, in the parts that LLaVA's evaluation has."""
        rule = {"role": "Assistant", "prompt": _TASK} if self.rules is None else self._rule(question.category)
        role = rule["role"]
        parts = [f"[Context]\n{caption}", f"[Question]\n{question.text}"]
        for number, text in enumerate((reference, answer), 1):
            parts.append(f"[{role} {number}]\n{text}\n\n[End of {role} {number}]")
        return "\n\n".join([*parts, f"[System]\n{rule['prompt']}\n\n"])

    def _rule(self, category: str) -> Mapping[str, str]:
        assert self.rules is not None
        rule = self.rules.get(PREFIX + category) or self.rules.get(category)
        if rule is None or misfit(rule, {"role": str, "prompt": str}):
            raise UserError(f"the judge's rules have no role and prompt for {PREFIX}{category}; add them")
        return rule

    def ask(self, message: str) -> str:
        """Return the judge's words.

        Raises:
            UserError: the server refuses, does not answer in time, or answers something else.
        """
        pause, request = self.pause, self._request(message)
        for last in (number == self.tries for number in range(1, self.tries + 1)):
            try:
                return self._words(within(self.seconds, lambda: self._body(request)))
            except urllib.error.HTTPError as error:
                if last or error.code not in _TRANSIENT:
                    moved = ", a redirect, and none is followed" if 300 <= error.code < 400 else ""
                    raise self._failed(f"status {error.code}{moved}") from error
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                if last:
                    inner = getattr(error, "reason", error)
                    reason = one_line(inner if isinstance(inner, BaseException) else error)
                    raise self._failed(reason) from error
            time.sleep(pause)
            pause *= 2
        raise AssertionError("the last try returns or raises")

    def _request(self, message: str) -> urllib.request.Request:
        body = {"model": self.model, "messages": [{"role": "user", "content": message}], "temperature": 0}
        headers = {"Content-Type": "application/json", **self._authorization()}
        return urllib.request.Request(self._endpoint, json.dumps(body).encode(), headers)

    def _authorization(self) -> dict[str, str]:
        """Return the header with the key, or with the name and password inside the URL."""
        key, parts = os.environ.get(self.key_variable, "").strip(), urlsplit(self.url)
        if not re.fullmatch(r"[ -~]*", key):
            raise UserError(
                f"found a key in {self.key_variable} that no header can carry; need printable ASCII; set it again"
            )
        if key:
            keep(key)
            return {"Authorization": f"Bearer {key}"}
        if parts.username is None:
            return {}
        pair = base64.b64encode(unquote(f"{parts.username}:{parts.password or ''}").encode()).decode()
        keep(pair)
        return {"Authorization": f"Basic {pair}"}

    def _body(self, request: urllib.request.Request) -> bytes:
        """Return the body of the answer.

        Raises:
            UserError: it is longer than any judge's.
            OSError, HTTPException: what `ask` tries again, or an answer that is no HTTP.
        """
        parts, size, end = [], 0, time.monotonic() + self.seconds
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.seconds) as response:
            while part := response.read1(_PART):
                size += len(part)
                if size > _MOST_BYTES:
                    raise self._failed(f"more than {_MOST_BYTES:,} bytes")
                if time.monotonic() > end:  # nobody waits for it any more
                    raise TimeoutError
                parts.append(part)
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    @property
    def _endpoint(self) -> str:
        """The address that is asked: without the name and password, which go into a header."""
        parts = urlsplit(self.url)
        place = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, place, parts.path.rstrip("/") + "/chat/completions", parts.query, ""))

    def _words(self, body: bytes) -> str:
        try:
            words = parse_json(body.decode())["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise self._failed("an answer that is not a chat completion") from error
        if not isinstance(words, str):
            raise self._failed("an answer without words")
        return words

    def _failed(self, reason: str) -> UserError:
        return UserError(
            f"the judge at {self._endpoint} gave {reason}; need a server that speaks OpenAI's chat completions; check "
            f"--judge_url, --judge_model and {self.key_variable}, then start again: ratings made before are kept"
        )


def read_rules(path: str | Path | None) -> Mapping[str, Mapping[str, str]] | None:
    """Read LLaVA's rule.json; None without a path.

    Raises:
        UserError: it is missing or damaged.
    """
    if path is None:
        return None
    rules: Mapping[str, Mapping[str, str]] = read_json(path)
    return rules


def points(words: str) -> tuple[float, float]:
    """Return the two numbers of the first line of a judge's words; `NO_POINTS` where it has anything else."""
    line = words.strip().split("\n")[0].replace(",", " ")
    parts = line.split()
    if len(parts) != 2 or not all(re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", part) for part in parts):
        return NO_POINTS
    first, second = map(float, parts)
    return (first, second) if 0 < first <= 10 and 0 < second <= 10 else NO_POINTS
