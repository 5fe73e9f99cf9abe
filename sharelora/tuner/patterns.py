"""Patterns that say which modules an adapter has, tried within a time limit before anything depends on them.

Python's `re` tries every way in which a pattern can match, and nothing stops it: `(\\w+)*x` takes for ever on a path of
30 letters. PEFT matches every module's path with the patterns of an adapter's file. So they are first matched with the
same paths in a process of their own, which ends after some seconds of CPU time.

The standard library alone: commands that only count need not load PEFT.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sharelora.support.errors import UserError

SECONDS = 2  # of CPU time, for all patterns and paths together
# Where a path is short, a pattern with a single repetition, of no group, takes a few thousand steps.
_SHORT = 200
_LITERAL = re.compile(r"[\w.\-]*")
_TRIAL = f"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
patterns, paths = json.load(sys.stdin)
for pattern in patterns:
    print(json.dumps(pattern), flush=True)
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        sys.exit(f"{{error}}")
    for path in paths:
        compiled.match(path)
        compiled.fullmatch(path)
"""


def patterns_of(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the patterns of an adapter's configuration: as they are written, and as PEFT compares them with paths."""
    for name in ("target_modules", "exclude_modules"):
        if isinstance(config.get(name), str):
            yield config[name], config[name]
    counted = config.get("layers_pattern") or ()
    for pattern in [counted] if isinstance(counted, str) else counted:
        yield pattern, rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\."
    for name in ("rank_pattern", "alpha_pattern"):
        yield from ((key, rf"(.*\.)?({key})$") for key in config.get(name) or ())
    yield from ((name, rf"(^|.*\.){name}($|\..*)") for name in config.get("modules_to_save") or ())


def require_quick(patterns: Iterable[tuple[str, str]], paths: Iterable[str], where: object) -> None:
    """Refuse patterns that are no regular expressions, or that take long to compare with paths.

    Args:
        patterns: as they are written, and as they are compared.
        paths: that they will be compared with.
        where: the patterns are from, for the message.

    Raises:
        UserError: such a pattern.
    """
    others = [(written, whole) for written, whole in patterns if not _LITERAL.fullmatch(written)]
    if not others:
        return
    paths = sorted(set(paths))
    short = max(map(len, paths), default=0) <= _SHORT
    tried = [whole for written, whole in others if not (short and _is_simple(written, whole))]
    if not tried:
        return
    try:
        trial = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TRIAL],
            input=json.dumps([tried, paths]),
            capture_output=True,
            text=True,
            timeout=30 * SECONDS,
        )
        printed, code, said = trial.stdout, trial.returncode, trial.stderr
    except subprocess.TimeoutExpired as expired:
        printed, code, said = bytes(expired.stdout or b"").decode(), -1, ""
    if code == 0:
        return
    *_, last = printed.splitlines() or [json.dumps("")]
    pattern = json.loads(last)[:100]
    if code > 0:
        reason = said.strip().splitlines() or ["it cannot be tried"]
        raise UserError(
            f"{where} has the pattern {pattern!r} ({reason[-1][:200]}); need a regular expression; correct it"
        )
    raise UserError(
        f"{where} has the pattern {pattern!r}, which takes more than {SECONDS} s to compare with {len(paths):,} "
        "paths; need one without repetitions inside of repetitions; write it plainer, or name the modules"
    )


def _is_simple(written: str, whole: str) -> bool:
    """Whether a pattern has at most one repetition, of a single character, and is a regular expression."""
    if sum(map(written.count, "*+?{")) > 1 or re.search(r"\)[*+?{]", written):
        return False
    try:
        re.compile(whole)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
