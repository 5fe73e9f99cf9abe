"""Errors that the user can fix, and how a program reports them."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from sharelora.support.secrets import clean_output, hide

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

_LONGEST = 2000  # characters of a message

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


class UserError(ValueError):
    """Bad input: the message is one line that names what was found, what is needed and what to do.

    Args:
        message: line ends and other control characters in it, which a name in a user's file may have, become spaces;
            secrets are hidden, and of a very long one, which quotes a file, the middle is left out.
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

    Missing rights to a file or folder are such a line, too. Nothing that is printed has secrets, a traceback of any
    other error included.

    Args:
        main: the entry point; its return value is the exit code, None meaning 0.
    """
    with clean_output():
        try:
            code = main() or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            code = BAD_INPUT
        except PermissionError as error:
            # Even to ask whether a file is there takes rights to its folder.
            reason = UserError(f"no permission for {error.filename}; need the right to read and write there; check it")
            print(f"error: {reason}", file=sys.stderr)
            code = BAD_INPUT
        except Stopped as stop:
            print(stop, file=sys.stderr)
            code = stop.code
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception:
            traceback.print_exc()
            code = FAILED
    sys.exit(code)
