"""The Trainer's settings are read from its source as they are: names, types, choices, defaults and help."""

from __future__ import annotations

import dataclasses
from argparse import Action
from pathlib import Path
from typing import Any

import pytest

from sharelora.flags import trainer_fields
from sharelora.flags.fields import add_fields
from sharelora.flags.parser import Parser


def flags(owner: Any) -> dict[str, Action]:
    parser = Parser()
    add_fields(parser, owner, "training")
    return {action.dest: action for action in parser._actions}


def reading(action: Action) -> Any:
    """How a flag's value is read: a function, and the values that it allows."""
    kind: Any = action.type
    cells = getattr(kind, "__closure__", None) or ()
    return getattr(kind, "__qualname__", kind), [cell.cell_contents for cell in cells]


def test_the_flags_are_those_of_the_class_itself() -> None:
    from transformers import TrainingArguments

    light, real = trainer_fields.trainer_fields(), TrainingArguments
    assert light is not real, "the source of this version of transformers has another form; extend trainer_fields"
    assert [field.name for field in dataclasses.fields(light)] == [field.name for field in dataclasses.fields(real)]
    ours, theirs = flags(light), flags(real)
    assert list(ours) == list(theirs) and len(ours) > 100
    for name, action in theirs.items():
        for part in ("option_strings", "default", "nargs", "const", "metavar", "help"):
            assert getattr(ours[name], part) == getattr(action, part), (name, part)
        assert reading(ours[name]) == reading(action), name


@pytest.mark.parametrize(
    "source",
    [
        "class Other: pass",
        "class TrainingArguments(Base):\n    x: int = field(default=1)",
        "@dataclass\nclass TrainingArguments:\n    x: int = field(default=somewhere())",
        "@dataclass\nclass TrainingArguments:\n    y = 1\n    if is_windows():\n        y = 2\n    x: int = y",
        "not Python",
    ],
)
def test_a_source_of_another_form_means_the_class_itself(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainingArguments

    (tmp_path / "training_args.py").write_text(source)
    with pytest.raises(trainer_fields.NOT_UNDERSTOOD):
        trainer_fields.read_trainer_fields(tmp_path)
    read = trainer_fields.read_trainer_fields
    monkeypatch.setattr(trainer_fields, "read_trainer_fields", lambda folder: read(tmp_path))
    assert trainer_fields.trainer_fields.__wrapped__() is TrainingArguments


def test_conditions_on_torch_are_taken_as_met(tmp_path: Path) -> None:
    (tmp_path / "training_args.py").write_text(
        "@dataclass\nclass TrainingArguments:\n    y = 1\n    if is_torch_available():\n        y = 2\n"
        "    x: int = field(default=y)"
    )
    assert trainer_fields.read_trainer_fields(tmp_path)().x == 2
