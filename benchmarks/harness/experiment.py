"""Comparisons of methods: a search for learning rates, then runs over several seeds; each run is done once."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from benchmarks.harness.pool import LOG, logged, run_all
from benchmarks.harness.report import table
from sharelora.support.errors import UserError
from sharelora.support.files import write_json
from sharelora.support.reading import read_json

SEARCH, MAIN = "search", "main"
# A seed that no compared run has: a learning rate must not be chosen on one of their draws.
SEARCH_SEED = 1000
SETTINGS = "experiment.json"
# What gets its own learning rate: a method, or with several tasks a task and a method.
Arm = str | tuple[str, str]


@dataclass(frozen=True)
class Run:
    """One training with what follows it.

    Attributes:
        phase: `search` or `main`.
        method: what is compared.
        seed: of weights and of the order of the rows.
        rate: the learning rate; 0 if nothing is trained.
        task: where several are trained on.
    """

    phase: str
    method: str
    seed: int
    rate: float
    task: str = ""

    @property
    def name(self) -> str:
        """Its folder, relative to that of all runs."""
        folder = f"{self.phase}/{self.task}" if self.task else self.phase
        return f"{folder}/{self.method}_seed{self.seed}_lr{self.rate:g}"

    @property
    def arm(self) -> Arm:
        """What its learning rate is chosen for."""
        return (self.task, self.method) if self.task else self.method


Outcome = TypeVar("Outcome")
# What runs came to, by arm.
Outcomes = Mapping[Arm, Mapping[Run, Outcome]]


class Experiment(ABC, Generic[Outcome]):
    """Everything that decides the numbers of a comparison, and how a run is done and read.

    Subclasses are frozen dataclasses: they are sent to worker processes.
    """

    # Fields that may differ between two comparisons in one folder: the runs of the earlier one stay as they are. Of a
    # mapping, entries may join; those that exist must not change.
    open_ended: ClassVar[tuple[str, ...]] = ()
    rates: tuple[float, ...]

    @abstractmethod
    def search(self) -> list[Run]:
        """Return the runs of the search for learning rates."""

    @abstractmethod
    def main(self, rates: Mapping[Arm, float]) -> list[Run]:
        """Return the compared runs, in an order whose every prefix is balanced.

        Args:
            rates: arm -> the learning rate that the search chose.
        """

    @abstractmethod
    def data(self) -> dict[str, Any]:
        """Return everything that decides the numbers, as JSON data."""

    @abstractmethod
    def execute(self, run: Run, folder: Path) -> None:
        """Do what is left of a run in this process.

        Raises:
            UserError: what a job refuses.
        """

    @abstractmethod
    def outcome(self, run: Run, folder: Path) -> Outcome:
        """Read a run that has ended.

        Raises:
            UserError: one of its files is missing or damaged.
        """

    @abstractmethod
    def losses(self, run: Run, outcome: Outcome) -> tuple[float, ...]:
        """Return what a learning rate is chosen by: the smallest is the best, later entries break ties."""

    def seconds(self, run: Run) -> float:
        """Return how long a run is expected to take, in any unit."""
        return 1.0

    def is_done(self, run: Run, folder: Path) -> bool:
        """Return whether nothing of a run is left to do: its job has ended and left a result."""
        # Not at the top: it loads PEFT, which a command that only plans can do without.
        from sharelora.training.output import COMPLETED

        return (folder / COMPLETED).is_file() and (folder / "result.json").is_file()

    def remember(self, root: Path) -> None:
        """Write down what is compared, so that runs of another comparison are never mixed with these.

        Args:
            root: the folder of all runs.

        Raises:
            UserError: the folder holds runs of another comparison; the message names the first difference.
        """
        file = root / SETTINGS
        # As JSON has it: tuples become lists.
        now: dict[str, Any] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self.data().items()
        }
        before: dict[str, Any] = read_json(file) if file.is_file() else {}
        for name, value in now.items() if before else ():
            old = before.get(name)
            if name not in self.open_ended:
                if old != value:
                    raise self._mixed(root, name, old, value)
            elif isinstance(old, dict):
                for key in old.keys() & value.keys():
                    for part, number in value[key].items():
                        if old[key].get(part) != number:
                            raise self._mixed(root, f"{name}.{key}.{part}", old[key].get(part), number)
                now[name] = {**old, **value}
        write_json(file, now)

    @staticmethod
    def _mixed(root: Path, name: str, old: Any, new: Any) -> UserError:
        return UserError(
            f"{root} holds runs with {name} {old}, these have {new}; need one comparison per folder; choose another "
            "--output"
        )

    def run_all(self, runs: Sequence[Run], root: Path, jobs: int, until: float = math.inf) -> None:
        """Do all runs that are not done yet; see `pool.run_all`."""

        def done(run: Run) -> bool:
            return self.is_done(run, root / run.name)

        run_all(runs, root, done, partial(_execute, self, root), jobs, self.seconds, until)

    def collect(self, runs: Iterable[Run], root: Path) -> dict[Arm, dict[Run, Outcome]]:
        """Return the outcomes of the runs that have ended, by arm."""
        outcomes: dict[Arm, dict[Run, Outcome]] = {}
        for run in runs:
            folder = root / run.name
            if self.is_done(run, folder):
                outcomes.setdefault(run.arm, {})[run] = self.outcome(run, folder)
        return outcomes

    def best_rates(self, searched: Outcomes[Outcome]) -> dict[Arm, float]:
        """Return the best learning rate of each arm; of equal ones the smaller."""

        def rank(run: Run, outcome: Outcome) -> tuple[float, ...]:
            # A run that diverged, whose loss is NaN, is never the best.
            return (*(math.inf if loss != loss else loss for loss in self.losses(run, outcome)), run.rate)

        return {arm: min(runs, key=lambda run: rank(run, runs[run])).rate for arm, runs in searched.items()}

    def search_and_train(
        self, root: Path, jobs: int, minutes: float = math.inf
    ) -> tuple[dict[Arm, dict[Run, Outcome]], dict[Arm, dict[Run, Outcome]]]:
        """Do the runs that are missing.

        Args:
            root: the folder of all runs.
            jobs: worker processes; 0 means this process.
            minutes: no run is begun later; 0 begins none.

        Returns:
            The outcomes of the search and of the compared runs.
        """
        until = time.monotonic() + 60 * minutes
        self.remember(root)
        self.run_all(self.search(), root, jobs, until)
        searched = self.collect(self.search(), root)
        runs = self.main(self.best_rates(searched))
        self.run_all(runs, root, jobs, until)
        return searched, self.collect(runs, root)

    def search_table(
        self,
        searched: Outcomes[Outcome],
        headers: Sequence[str],
        labels: Callable[[Arm], Sequence[str]],
        text: Callable[[Outcome], str],
    ) -> str:
        """Return a row per arm and a column per learning rate, the chosen one in bold.

        Args:
            searched: what the search came to.
            headers: of the columns before the learning rates.
            labels: the cells of a row in these columns.
            text: what a run came to.
        """
        best, rates = self.best_rates(searched), sorted(self.rates)
        rows = []
        for arm, runs in searched.items():
            texts = {run.rate: text(outcome) for run, outcome in runs.items()}
            texts[best[arm]] = f"**{texts[best[arm]]}**"
            rows.append((*labels(arm), *(texts.get(rate, "-") for rate in rates)))
        return table((*headers, *(f"{rate:g}" for rate in rates)), rows)


def _execute(experiment: Experiment[Any], root: Path, run: Run) -> float:
    """Do what is left of a run, log it into its folder and return seconds; a function that workers can import."""
    # Only workers need it: the process that plans the runs does without transformers.
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    began, folder = time.monotonic(), root / run.name
    with logged(folder / LOG):
        experiment.execute(run, folder)
    return time.monotonic() - began
