"""A grid of trainings, read from a YAML file and checked before anything runs.

flags:                       # of every run, as on the command line of qlora_share.py
  model_name_or_path: models/llama
  dataset: alpaca
seeds: [0, 1, 2]             # 0 if absent
metric: eval_loss            # the number that the tables show
evaluate:                    # after every training; {model}, {adapter} and {folder} are the run's
  - eval/commonsense.py --model {model} --adapter {adapter} --output {folder}/commonsense
ablations:
  rank:                      # every combination of these values
    lora_r: [2, 4, 8, 16]
  modules:                   # values with names
    lora_modules: {Q: q_proj, K: k_proj, all five: "q_proj,k_proj,v_proj,up_proj,down_proj"}
  threshold:                 # or settings one by one
    - {label: 0.80, share_groups: "0-3,4-7", lora_r: 9}
    - {label: 0.85, share_groups: "0-1,2-3"}
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.flags.settings_file import read_settings, typed
from sharelora.support.errors import UserError
from sharelora.support.text import nearest

FIELDS = ("flags", "seeds", "metric", "evaluate", "ablations")
LABEL = "label"
# What tells the runs of a grid apart is not for the file to say.
OWN = ("output_dir", "seed", "run_name", "overwrite_output_dir", "do_train", "dry_run")


@dataclass(frozen=True)
class Setting:
    """One line of a table: what it is called, and the flags that make it, on top of those of all runs."""

    label: str
    flags: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """What is to be trained.

    Attributes:
        flags: of every run.
        seeds: every setting is trained with each.
        metric: a number of the runs' results.
        evaluate: command lines after every training.
        ablations: name -> its settings.
    """

    flags: Mapping[str, Any]
    seeds: tuple[int, ...]
    metric: str
    evaluate: tuple[str, ...]
    ablations: Mapping[str, tuple[Setting, ...]]


def read_grid(path: str | Path) -> Grid:
    """Read a grid.

    Raises:
        UserError: no YAML, an unknown field, or nothing to train.
    """
    fields = read_settings(path, "grid")
    for name in fields:
        if name not in FIELDS:
            near = nearest(str(name), FIELDS, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{path}: found field {name!r}; need one of {', '.join(FIELDS)}{hint}")
    flags = _mapping(fields.get("flags") or {}, f"{path}: flags")
    ablations = _mapping(fields.get("ablations") or {}, f"{path}: ablations")
    if not ablations:
        raise UserError(
            f"{path} has no ablations, so there is nothing to train; name some, such as rank: {{lora_r: [4, 8]}}"
        )
    return Grid(
        _without_own(flags, f"{path}: flags"),
        _seeds(typed(fields.get("seeds")), path),
        str(fields.get("metric") or "eval_loss"),
        tuple(_texts(fields.get("evaluate") or [], f"{path}: evaluate")),
        {str(name): _settings(value, f"{path}: ablation {name}") for name, value in ablations.items()},
    )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = {list: "a list", type(None): "empty"}.get(type(value), f"{value!r}")
        raise UserError(f"{where} is {kind}; need a mapping of names to values; see docs/figures-and-ablation.md")
    return {str(name): item for name, item in value.items()}


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{where} is {value!r}; need a list of command lines")
    return value


def _seeds(value: Any, path: str | Path) -> tuple[int, ...]:
    if value is None:
        return (0,)
    if not isinstance(value, list) or not value or not all(type(seed) is int and seed >= 0 for seed in value):
        raise UserError(f"{path}: found seeds {value!r}; need a list of whole numbers such as [0, 1, 2]")
    if len(set(value)) < len(value):
        raise UserError(f"{path}: found seeds {value}, one of them twice; name each once")
    return tuple(value)


def _without_own(flags: Mapping[str, Any], where: str) -> dict[str, Any]:
    taken = [name for name in flags if name.replace("-", "_") in OWN]
    if taken:
        raise UserError(f"{where}: found {taken[0]}, which the grid decides itself; leave it out (seeds are a field)")
    return dict(flags)


def _settings(value: Any, where: str) -> tuple[Setting, ...]:
    settings = _listed(value, where) if isinstance(value, list) else _combined(_mapping(value, where), where)
    labels = [setting.label for setting in settings]
    if not settings:
        raise UserError(f"{where} is empty; need at least one value, such as lora_r: [4, 8]")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"{where} has {twice!r} twice; name each setting once, with a {LABEL} of its own")
    return settings


def _listed(rows: Sequence[Any], where: str) -> tuple[Setting, ...]:
    settings = []
    for row in (_mapping(row, where) for row in rows):
        flags = {name: value for name, value in row.items() if name != LABEL}
        named = ", ".join(f"{name} {value}" for name, value in flags.items())
        settings.append(Setting(str(row.get(LABEL, named)), _without_own(flags, where)))
    return tuple(settings)


def _combined(flags: Mapping[str, Any], where: str) -> tuple[Setting, ...]:
    """Return every combination of the flags' values."""
    _without_own(flags, where)
    choices = []
    for name, values in flags.items():
        if not isinstance(values, list | dict):
            raise UserError(f"{where}: found {name} {values!r}; need a list of values, or names with values")
        pairs = values.items() if isinstance(values, dict) else ((value, value) for value in values)
        choices.append([(str(label), name, value) for label, value in pairs])
    if not choices:
        return ()
    return tuple(
        Setting(", ".join(label for label, _, _ in chosen), {name: value for _, name, value in chosen})
        for chosen in itertools.product(*choices)
    )


def folder_name(text: str) -> str:
    """Return a text as a name that every file system takes."""
    return re.sub(r"[^\w.,=+-]+", "_", text).strip("._") or "_"
