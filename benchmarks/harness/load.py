"""The load that others put on the machine: times of a busy one mean little and are not saved."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field

import psutil

from sharelora.support.errors import UserError

# Above this share of the machine in use by others, times mean little.
BUSY_PERCENT = 15.0


@dataclass
class OtherLoad:
    """The share of the CPU that others use while the block runs; `percent` holds it afterwards."""

    percent: float = field(default=0.0, init=False)

    def __enter__(self) -> OtherLoad:
        self._before = self._read()
        return self

    def __exit__(self, *exc: object) -> None:
        wall, used, own = (after - before for after, before in zip(self._read(), self._before, strict=True))
        self.percent = round(max(0.0, 100 * (used - own) / max(wall * (psutil.cpu_count() or 1), 1e-9)), 1)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Return seconds by the clock, CPU seconds of the whole machine, and those of this process."""
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # Time of guests is counted in user time as well.
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return time.perf_counter(), sum(times) - idle - guests, own.user + own.system


def load_sentence(percent: float) -> str:
    """Return a sentence about the load of others for a report, with a warning if it was high."""
    warning = " **Not to be relied on.**" if percent > BUSY_PERCENT else ""
    return f"Others used {percent} % of the machine meanwhile.{warning}"


def others_now(seconds: float = 1.0) -> float:
    """Return the percentage of this machine's CPU that others use at the moment."""
    with OtherLoad() as load:
        time.sleep(seconds)
    return load.percent


def check_load(args: argparse.Namespace) -> float:
    """Refuse to save times of a busy machine, and warn loudly before printing them.

    Args:
        args: the command line, of which `save` and `force` are read.

    Returns:
        The percentage of the CPU that others use.

    Raises:
        UserError: others use the machine and the results are to be saved without --force.
    """
    busy = others_now()
    if busy > BUSY_PERCENT:
        if args.save is not None and not args.force:
            raise UserError(
                f"others use {busy:.0f} % of this machine; times need a quiet one to be saved; "
                "stop them, or pass --force to save all the same"
            )
        print(
            f"\n*** WARNING: others use {busy:.0f} % of this machine. These times mean little, and several threads "
            "that wait for a core can take ten times as long: --threads 1 ***\n",
            file=sys.stderr,
        )
    return busy
