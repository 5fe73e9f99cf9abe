"""The methods of transformers' Trainer that are overridden: they are listed, and are as they were when listed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

import sharelora.training
from sharelora.trainer.overrides import ATTRIBUTES, OVERRIDES, TASK_OVERRIDES, Override, changed, unlisted
from sharelora.trainer.trainer import AdapterTrainer


def task_trainers() -> Iterator[type[AdapterTrainer]]:
    """Every Trainer of the tasks."""
    folder = Path(str(sharelora.training.__file__)).parent
    for file in folder.rglob("trainer.py"):
        import_module(".".join(["sharelora.training", *file.relative_to(folder).with_suffix("").parts]))
    waiting = [AdapterTrainer]
    while waiting:
        below = waiting.pop().__subclasses__()
        yield from below
        waiting += below


def test_transformers_has_the_methods_as_they_are_listed() -> None:
    assert list(changed()) == []


def test_every_overridden_method_is_listed_once_and_overridden_once() -> None:
    assert unlisted(AdapterTrainer, OVERRIDES) == set()
    assert AdapterTrainer.__bases__ == (Trainer,)
    names = [override.name for override in OVERRIDES]
    assert [name for name in vars(AdapterTrainer) if name in names] == names  # in the same order, none left over
    assert all(override.why for override in (*OVERRIDES, *TASK_OVERRIDES))


def test_what_the_trainers_of_tasks_override_is_listed() -> None:
    trainers = [trainer for trainer in task_trainers() if trainer.__module__.startswith("sharelora.")]
    assert len(trainers) >= 3
    for trainer in trainers:
        assert unlisted(trainer, (*OVERRIDES, *TASK_OVERRIDES)) == set(), trainer
    overridden = {name for trainer in trainers for name in vars(trainer)}
    assert {override.name for override in TASK_OVERRIDES} <= overridden


def test_a_method_that_has_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Trainer, "_save")
    assert list(changed()) == ["Trainer._save is gone"]


def test_a_version_that_changes_a_method_is_named() -> None:
    class Newer(Trainer):
        """Of a version to come; inspected alone, it lacks what it does not set."""

        def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, scheduler: Any = True) -> Any:  # type: ignore[override]
            self._tr_loss = None

    messages = list(changed(Newer))
    assert messages[0] == (
        "Trainer._evaluate takes (trial, ignore_keys_for_eval, scheduler=True); "
        "transformers 5.23.0 has (trial, ignore_keys_for_eval, skip_scheduler=False)"
    )
    assert [message for message in messages if "is gone" in message] == [
        f"Trainer.{name} is gone" for name in ATTRIBUTES if name != "_tr_loss"
    ]


def test_an_override_that_is_not_listed_is_named() -> None:
    class More(AdapterTrainer):
        def store_flos(self) -> None:
            """Not in the list."""

    assert unlisted(More, OVERRIDES) == {"store_flos"}
    assert unlisted(More, (*OVERRIDES, Override("store_flos", "for this test", ""))) == set()
