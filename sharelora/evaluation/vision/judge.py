"""A judge that gives points to two answers: any server that speaks OpenAI's chat completions.

Nothing is sent anywhere unless `--judge_url` says where. It is sent the question, the image in words and both answers.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sharelora.data.vision.bench import PREFIX, BenchQuestion
from sharelora.support.errors import UserError
from sharelora.support.reading import misfit, parse_json, read_json

# LLaVA's mark of a rating without points.
NO_POINTS = (-1.0, -1.0)
_TASK = (
    "Two assistants have answered the question about a picture. You cannot see it; the description above says what is "
    "in it. Rate each answer from 1 to 10 for being helpful, relevant, accurate and detailed. Write first a single "
    "line with only the two numbers, of the first and of the second assistant, with a space between them. Then explain "
    "your numbers, without letting the order of the answers count."
)
_TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Judge:
    """Where to ask, and how.

    Args:
        url: the base URL, without `/chat/completions`, e.g. http://localhost:8000/v1.
        model: the name of the judge's model.
        key_variable: the environment variable that holds a key, if the server wants one.
        rules: LLaVA's rule.json, for its wording of the task; None for this project's.
        seconds: to wait for an answer.
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
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"found --judge_url {self.url}; need one that begins with http:// or https://; correct it")

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
            UserError: the server refuses, does not answer, or answers something else.
        """
        pause = self.pause
        for last in (number == self.tries for number in range(1, self.tries + 1)):
            try:
                return self._ask_once(message)
            except urllib.error.HTTPError as error:
                if last or error.code not in _TRANSIENT:
                    raise self._failed(f"status {error.code}") from error
            except (OSError, http.client.HTTPException) as error:
                if last:
                    raise self._failed(str(getattr(error, "reason", error)) or type(error).__name__) from error
            time.sleep(pause)
            pause *= 2
        raise AssertionError("the last try returns or raises")

    def _ask_once(self, message: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": message}], "temperature": 0}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._endpoint, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.seconds) as response:
            return self._words(response.read())

    @property
    def _endpoint(self) -> str:
        return self.url.rstrip("/") + "/chat/completions"

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
