"""The error for names that select nothing, which is PEFT's error as well; apart, since it loads PEFT."""

from __future__ import annotations

from peft import NoMatchingPeftModuleError

from sharelora.support.errors import UserError


class NoModulesError(UserError, NoMatchingPeftModuleError):
    """Names that select no module; also the error of PEFT that callers may wait for."""
