"""A `~` in a flag or variable that names a file is the home folder, wherever the shell has left it alone."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from sharelora.cli.commands import COMMANDS
from sharelora.continual.command import parser as continual
from sharelora.data.find import data_folder
from sharelora.evaluation import commands, exams
from sharelora.flags.parser import Parser
from sharelora.flags.paths import PATHS
from sharelora.training import arguments
from sharelora.training.instructions.job import parse

TRAINERS = ("instructions", "glue", "nlg", "vision")
# Flags whose help speaks of files, and which name none.
NO_PATHS = {"task_name", "model_card", "eval_dataset_size", "sandbox", "max_file", "draw", "loralib", "lora_alpha"}


def parsers() -> dict[str, Parser]:
    """Every command's parser."""
    found = {"continual": continual()}
    for name in TRAINERS:
        options = vars(import_module(f"sharelora.training.{name}.options"))
        line = next(item for item in options.values() if isinstance(item, arguments.CommandLine))
        found[name] = line.build_parser()
    every = [*vars(commands).values(), *vars(exams).values()]
    found |= {item.name: item.parser() for item in every if isinstance(item, commands.Command)}
    for name, command in COMMANDS.items():
        found[name] = Parser(name)
        getattr(import_module(f"sharelora.cli.{command.module}"), f"add_{name}_flags")(found[name])
    return found


def test_every_flag_that_names_a_file_is_known_as_one() -> None:
    speaks = re.compile(r"folder|\bfiles?\b|\bpath|FILE|DIR|\bjson\b|Jinja")
    every = parsers()
    assert len(every) > 20
    missing = {
        f"{name}: {action.dest}"
        for name, parser in every.items()
        for action in parser._actions
        if action.nargs != 0 and speaks.search(f"{action.help} {action.metavar}")
        if action.dest not in PATHS | NO_PATHS
    }
    assert missing == set()


def test_a_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "run.yaml"
    file.write_text("output_dir: ~/runs/a\nmodel_name_or_path: '~/llama'\nrun_name: ~/name\nlora_r: 4\n")
    args = parse(["--config=~/run.yaml", "--dataset=~/rows.json", "--adapter", "none"])
    assert args.train["output_dir"] == f"{tmp_path}/runs/a" and args.model.model_name_or_path == f"{tmp_path}/llama"
    assert args.values["dataset"] == f"{tmp_path}/rows.json" and args.values["lora_r"] == 4
    assert args.train["run_name"] == "~/name" and args.values["adapter"] == "none"
    options = exams.MMLU.parse(
        ["--adapter=~/a", "--output=~", "--model", "org/~model", "--data_root", "~nobody-here/x"]
    )
    assert (options.adapter, options.output, options.model) == (f"{tmp_path}/a", str(tmp_path), "org/~model")
    assert options.data_root == "~nobody-here/x"
    values, words = continual().parse_known_args(["--output=~/c", "--lora_r", "4"])
    assert (values.output, words) == (f"{tmp_path}/c", ["--lora_r", "4"])


def test_a_home_in_a_variable_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHARELORA_DATA", "~/data")
    assert data_folder() == tmp_path / "data"
    assert data_folder("~/other") == tmp_path / "other"
    monkeypatch.setenv("SHARELORA_DATA", "")
    assert data_folder() is None
