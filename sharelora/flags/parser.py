"""One argument parser for every entry point: nothing abbreviated, nothing swallowed, the nearest flag named."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from sharelora.flags.paths import expand_home
from sharelora.support.errors import UserError
from sharelora.support.secrets import keep_words
from sharelora.support.text import nearest

TRUE = ("true", "yes", "1", "on")
FALSE = ("false", "no", "0", "off")
TINY = "SHARELORA_TINY"
_NEGATIVE = re.compile(r"-(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?\Z")
_DIGITS = 100  # more are no number that anybody means, and Python refuses to read thousands of them
_LARGEST = 2**31 - 1  # of whole numbers without a bound of their own: what 32 bits hold
NO_ADAPTER = "none"  # as the value of --adapter: the base model alone


def unknown_flag(typed: str, known: Iterable[str], renamed: Mapping[str, str] | None = None) -> UserError:
    """Say that a flag does not exist and which one was probably meant.

    Args:
        typed: the flag as typed, with or without `=value`.
        known: every flag that the command has, with its dashes.
        renamed: flags of earlier versions or other tools, and what replaced them.

    Returns:
        The error, to be raised by the caller.
    """
    flag = typed.split("=", 1)[0]
    spelled = "--" + flag.lstrip("-").replace("-", "_")
    if renamed and spelled in renamed:
        return UserError(f"found flag {flag}; it is now called {renamed[spelled]}; use that name")
    near = nearest(spelled, known)
    advice = f"did you mean {near[0]}?" if near else "see --help for all flags"
    return UserError(f"found unknown flag {flag}; need a flag that this command has; {advice}")


def boolean(text: str) -> bool:
    """Read a boolean flag's value: true, yes, 1, on and their opposites, in any case."""
    lowered = text.strip().lower()
    if lowered not in TRUE + FALSE:
        raise argparse.ArgumentTypeError(f"found {text!r}; need true or false")
    return lowered in TRUE


def tiny_environment() -> bool:
    """Whether SHARELORA_TINY asks for the project's own small model and data; empty is as good as unset.

    Raises:
        UserError: it is neither true nor false.
    """
    try:
        return boolean(os.environ.get(TINY) or "0")
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{TINY}: {error}; set it to 1 or 0") from error


def whole(text: str) -> int:
    """Read a whole number, also one that is written as 1e3, 100.0 or 1_000."""
    if len(text) <= _DIGITS:
        try:
            return int(text)
        except ValueError:
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if value.is_integer():
                return int(value)
    raise argparse.ArgumentTypeError(f"found {_shown(text)}; need a whole number")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _DIGITS else f"{len(text):,} characters"


@dataclass(frozen=True)
class Range:
    """The numbers that a flag takes, none of them NaN or infinite, and what reads one: the `type` of its argument.

    Args:
        least: the smallest number.
        most: the largest number.
        whole: only whole numbers.
        above: only numbers larger than `least`.
        below: only numbers smaller than `most`.
    """

    least: float | None = None
    most: float | None = None
    whole: bool = False
    above: bool = False
    below: bool = False

    def __call__(self, text: str) -> Any:
        """Read a number."""
        try:
            value = whole(text) if self.whole else float(text)
        except (ValueError, argparse.ArgumentTypeError):
            value = math.nan
        if value not in self:
            raise argparse.ArgumentTypeError(f"found {_shown(text)}; need {self}")
        return value

    def __contains__(self, value: float) -> bool:
        least, most = -math.inf if self.least is None else self.least, math.inf if self.most is None else self.most
        if self.whole and self.most is None:
            most = _LARGEST
        inside = least < value if self.above else least <= value
        return inside and (value < most if self.below else value <= most) and math.isfinite(value)

    def __str__(self) -> str:
        bounds = []
        if self.least is not None:
            bounds.append(f"{'above' if self.above else 'of at least'} {self.least:g}")
        if self.most is not None:
            bounds.append(f"{'below' if self.below else 'at most'} {self.most:.10g}")
        kind = "whole number" if self.whole else "number" if bounds else "finite number"
        return " ".join([f"a {kind}", " and ".join(bounds)]).rstrip()


number = Range()
positive = Range(1, whole=True)


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose every complaint is a `UserError`.

    Flags cannot be abbreviated: an abbreviation changes its meaning when a flag is added.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(prog=prog, description=description, allow_abbrev=False, **options)
        # argparse takes -1e-5 for a flag, since it knows of -1 and -0.5 alone.
        self._negative_number_matcher = _NEGATIVE

    def switch(self, flag: str, default: bool = False, help: str = " ") -> None:
        """Add a boolean flag: `--x` alone means true; `--x true` and `--x false` work too."""
        self.add_argument(flag, type=boolean, nargs="?", const=True, default=default, metavar="BOOL", help=help)

    @property
    def flags(self) -> list[str]:
        """Every flag of this parser, with its dashes."""
        return [flag for flag in self._option_string_actions if flag.startswith("--")]

    def destination(self, name: str) -> str:
        """The name of the value that a flag without dashes sets: that of the flag itself, unless it is an alias."""
        action = self._option_string_actions.get(f"--{name}")
        return name if action is None else action.dest

    def metavar(self, name: str) -> str | None:
        """What stands for a flag's value in the help; None where the flag's name does."""
        action = self._option_string_actions.get(f"--{name}")
        return None if action is None or isinstance(action.metavar, tuple) else action.metavar

    def takes_several(self, name: str) -> bool:
        """Whether a flag takes several words."""
        action = self._option_string_actions.get(f"--{name}")
        return action is not None and action.nargs in ("+", "*")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the flags that this parser knows; in those that name files, `~` is the home folder.

        Secrets among the words are hidden from now on.
        """
        keep_words(sys.argv[1:] if args is None else args)
        values, rest = super().parse_known_args(args, namespace)
        expand_home(values)
        return values, rest

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Read the command line; None means the process's own.

        Raises:
            UserError: an unknown flag (the nearest one is named), a missing or a malformed value.
        """
        arguments, rest = self.parse_known_args(argv)
        unknown = [item for item in rest if item.startswith("-")]
        if unknown:
            raise unknown_flag(unknown[0], self.flags)
        if rest:
            raise UserError(f"found the value {rest[0]!r} without a flag before it; need --flag value; see --help")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UserError(f"{message}; see --help")
