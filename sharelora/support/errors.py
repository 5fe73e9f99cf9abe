"""Errors that the user can fix, how a program reports them, and secrets, which no message or file may show."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

_LONGEST = 2000  # characters of a message

BAD_INPUT = 2
INTERRUPTED = 130


class UserError(ValueError):
    """Bad input: the message is one line that names what was found, what is needed and what to do.

    Args:
        message: line ends and other control characters in it, which a name in a user's file may have, become spaces;
            of a very long one, which quotes a file, the middle is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_shortened(hide(_CONTROL.sub(" ", message))))


def _shortened(message: str) -> str:
    return message if len(message) <= _LONGEST else f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"


# The wordings of torch's CPU allocator and of CUDA's libraries, whose errors have no dedicated type.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: a GPU's, or the CPU's, by torch or by Python."""
    # By its name, as torch takes seconds to import.
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


class Stopped(BaseException):
    """A signal ended the run in good order; not an error, so that no handler of errors swallows it.

    Args:
        message: what was saved, and how to resume.
        code: the exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run an entry point and turn a `UserError` into one line on stderr and exit code 2, a `Stopped` into its own code.

    Missing rights to a file or folder are such a line, too.

    Args:
        main: the entry point; its return value is the exit code, None meaning 0.
    """
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {hide(str(error))}", file=sys.stderr)
        code = BAD_INPUT
    except PermissionError as error:
        # Even to ask whether a file is there takes rights to its folder.
        reason = UserError(f"no permission for {error.filename}; need the right to read and write there; check it")
        print(f"error: {hide(str(reason))}", file=sys.stderr)
        code = BAD_INPUT
    except Stopped as stop:
        print(stop, file=sys.stderr)
        code = stop.code
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


HIDDEN = "***"
# Flags whose value is a secret.
_FLAG = re.compile(r"--?[\w-]*(token|api[-_]key|password|secret)", re.IGNORECASE)
# What the model hub's tokens look like: of users, of organisations, and of those who signed in through another site.
# Names of data sets and folders begin in the same way (`hf_codealpaca`), but none has so long a word without a break.
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(hf_|api_org_)[A-Za-z0-9]{34,}|(?<![A-Za-z0-9])(hf_oauth_)[\w.-]{34,}")
# Secrets without a form of their own that this project reads.
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "SHARELORA_JUDGE_KEY", "WANDB_API_KEY")
_LEAST_LENGTH = 8  # of a secret; a shorter value would be found in ordinary words
# Values of such flags that are not secrets: they say where the secret is, if anywhere.
_NO_SECRET = ("true", "false", "none", "")


def hide(text: str) -> str:
    """Return a text without the hub's tokens, whoever they belong to, and without the secrets of the environment."""
    text = _TOKEN.sub(lambda match: f"{match[1] or match[2]}{HIDDEN}", text)
    for value in filter(None, map(os.environ.get, _VARIABLES)):
        text = text.replace(value, HIDDEN) if len(value) >= _LEAST_LENGTH else text
    return text


def redacted(words: Iterable[str]) -> list[str]:
    """Return the words of a command line without the values of flags that take a secret.

    Args:
        words: flags and values; a value follows its flag or an equals sign.
    """
    shown: list[str] = []
    secret = False
    for word in words:
        name, separator, value = word.partition("=")
        takes_one = _FLAG.fullmatch(name) is not None
        if takes_one and separator:
            shown.append(f"{name}={_hidden(value)}")
        else:
            shown.append(_hidden(word) if secret and not word.startswith("--") else hide(word))
        secret = takes_one and not separator
    return shown


def _hidden(value: str) -> str:
    return value if value.lower() in _NO_SECRET else HIDDEN
