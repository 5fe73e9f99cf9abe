"""One kind of error for everything a person can put right, and one way to report it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from sharelora.redaction import hide

BAD_INPUT = 2
INTERRUPTED = 130


class UserError(ValueError):
    """Bad input: the message is one line that names what was found, what is needed and what to do."""


class Stopped(BaseException):
    """A signal ended the run in good order; no error, so that nothing takes it for one and goes on.

    Args:
        message: what was saved, and how to go on.
        code: the exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run an entry point and turn a `UserError` into one line on stderr and exit code 2, a `Stopped` into its own code.

    Args:
        main: the entry point; its return value is the exit code, None meaning 0.
    """
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {hide(str(error))}", file=sys.stderr)
        code = BAD_INPUT
    except Stopped as stop:
        print(stop, file=sys.stderr)
        code = stop.code
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)
