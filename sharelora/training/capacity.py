"""The plan of a run and the memory it will take, from the model's shapes alone; and what to do where it runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from sharelora.flags.adapter import AdapterSettings
from sharelora.memory import advice as remedies
from sharelora.memory.advice import Change, FlagNames
from sharelora.memory.estimator import FACTORED, STATES, Estimate, estimate
from sharelora.memory.machine import Machine, machine, memory_errors
from sharelora.plan.plan import SharingPlan
from sharelora.support.errors import UserError
from sharelora.trainer.devices import choose_optimizer, processes


@dataclass(frozen=True)
class Outlook:
    """What is going to be trained and what it takes.

    Attributes:
        plan: which matrices there are.
        need: the estimate.
        there: this machine.
        changes: returns what could be changed, the cheapest first.
    """

    plan: SharingPlan
    need: Estimate
    there: Machine
    changes: Callable[[], list[Change]]

    def __str__(self) -> str:
        return f"{self.plan.table()}\n\n{self.need.table()}\n{self.need.verdict(self.there)}"

    def advice(self) -> str:
        """Return the cheapest ways to need less, with what each is estimated to save."""
        return remedies.advice(self.need.own, self.changes())


def look_at(
    model: nn.Module,
    adapter: AdapterSettings,
    rows: Mapping[str, int],
    settings: Mapping[str, Any],
    accumulation: int,
    names: FlagNames,
    folder: Any,
) -> Outlook:
    """Plan the adapters of a model, estimate the memory, and look at this machine.

    Args:
        model: on the meta device.
        adapter: what is adapted and shared.
        rows: values of the flags that `names.rows` names.
        settings: arguments of `sharelora.memory.estimator.estimate`.
        accumulation: forward passes per update.
        names: what the command calls its flags.
        folder: where results go.

    Raises:
        UserError: sharing flags that do not fit the model.
    """
    plan = adapter.plan(model)
    rank = None if adapter.rule is None else adapter.r

    def need(lora: Mapping[str, Any] | None = None, **other: Any) -> int:
        changed = adapter.changed(**lora).plan(model) if lora else plan
        return estimate(model, changed, **{**settings, **other}).own

    return Outlook(
        plan,
        estimate(model, plan, **settings),
        machine(folder),
        lambda: remedies.changes(settings, accumulation, rows, names, need, rank, adapter.shares),
    )


def known_optimizer(train: Mapping[str, Any]) -> str:
    """Return the optimizer that will be used; AdamW in place of one that the estimate does not know."""
    optimizer, _ = choose_optimizer(train["optim"], train["use_cpu"])
    return optimizer if optimizer in (*STATES, FACTORED) else "adamw_torch"


def require_capacity(outlook: Outlook, anyway: bool) -> None:
    """Refuse a run for which this machine lacks memory or disk.

    Args:
        outlook: the outlook.
        anyway: do not.

    Raises:
        UserError: it does not fit, with the ways out.
    """
    # With several processes each has its own share of the machine, which one process cannot know.
    if outlook.need.fits(outlook.there) or anyway or processes() > 1:
        return
    advice = outlook.advice()
    raise UserError(
        f"this run {outlook.need.verdict(outlook.there)}; {f'use {advice}, ' if advice else ''}"
        "set MODEL=/path/to/a/smaller/model, add --tiny, or pass --ignore_memory to try all the same"
    )


@contextmanager
def explained(outlook: Outlook | None, names: FlagNames) -> Iterator[None]:
    """Turn an error of the block that says that memory ran out into the estimate and the cheapest ways out.

    Args:
        outlook: the outlook; None where nothing was estimated.
        names: what the command calls its flags.

    Raises:
        UserError: memory ran out.
    """

    def words() -> tuple[str, str]:
        if outlook is None:
            return "less", names.general()
        return f"about {outlook.need.describe()}", outlook.advice() or names.general()

    with memory_errors(words):
        yield
