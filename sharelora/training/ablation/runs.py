"""The runs of a grid: which there are, what each costs, and doing those that are not done."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sharelora.models.known import meta_model
from sharelora.support.errors import UserError
from sharelora.support.files import write_json, write_text
from sharelora.support.reading import read_json
from sharelora.training.ablation.grid import Grid, folder_name
from sharelora.training.arguments import ADAPTER, setting_words
from sharelora.training.instructions.job import JOB, InstructionArguments, build_parser, parse
from sharelora.training.model import locate_base

ENDED = "ablation_run.json"
LOG = "ablation_run.log"
WORKER = "sharelora.training.instructions.job"  # one training, in its own process
# Rows of a training by epochs, whose data are not looked at: all that counts is that more epochs cost more.
ROWS_OF_AN_EPOCH = 10_000

FOLDER = "{folder}"  # in a command line, the run's
# What every training measures, besides names that begin with train_.
_OF_TRAINING = ("trainable", "adapter bytes", "seconds", "peak memory", "peak_memory_bytes", "total_flos", "epoch")
# Beginning of a metric's name -> the flag without which training does not measure it.
_BY_FLAG = {"eval_": "do_eval", "mmlu_": "do_mmlu_eval"}

Execute = Callable[[Sequence[str], Path], None]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        folder: where its results go.
        words: its command line.
        commands: command lines that evaluate it.
        cost: floating-point operations, roughly.
    """

    folder: Path
    words: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    cost: float

    @property
    def settings(self) -> dict[str, list[object]]:
        """What decides what the run does, as JSON data."""
        return {"train": list(self.words), "evaluate": [list(command) for command in self.commands]}


Key = tuple[str, str, int]  # ablation, label, seed


def plan_runs(grid: Grid, root: Path) -> dict[Key, Run]:
    """Return the runs; settings of several ablations that come to the same flags have one run together.

    Raises:
        UserError: an unknown flag, flags that do not fit each other or the model, or a metric that nothing measures.
    """
    runs: dict[Key, Run] = {}
    known: dict[tuple[str, ...], Run] = {}
    parser = build_parser()
    for name, settings in grid.ablations.items():
        for setting in settings:
            flags = {**grid.flags, **setting.flags}
            own = setting_words(flags, parser, where=f"ablation {name}, {setting.label}")
            for seed in grid.seeds:
                words = (*own, "--seed", str(seed))
                if words not in known:
                    folder = root / folder_name(name) / folder_name(setting.label) / f"seed{seed}"
                    known[words] = _run(grid, folder, words)
                runs[name, setting.label, seed] = known[words]
    return runs


def _run(grid: Grid, folder: Path, words: Sequence[str]) -> Run:
    words = (*words, "--output_dir", str(folder))
    args = parse(words)
    JOB.check(args)
    base_model = locate_base(args)
    require_metric(grid, args)
    fill = {"model": base_model, "adapter": folder / ADAPTER, "folder": folder}
    commands = tuple(_filled(command, fill) for command in grid.evaluate)
    return Run(folder, tuple(words), commands, _cost(args, base_model))


def require_metric(grid: Grid, args: InstructionArguments) -> None:
    """Refuse a grid whose tables would be empty: before the first run, rather than after the last.

    Args:
        grid: has a metric, and command lines that may measure it.
        args: of one of its runs.

    Raises:
        UserError: nothing in the grid measures the metric.
    """
    metric, measured = grid.metric, any(FOLDER in command for command in grid.evaluate)
    if metric in _OF_TRAINING or metric.startswith("train_"):
        return
    flag = next((flag for start, flag in _BY_FLAG.items() if metric.startswith(start)), None)
    told = {"do_eval": args.evaluates, "do_mmlu_eval": args.mmlu.do_mmlu_eval}
    if flag is not None and (told[flag] or measured):
        return
    if flag is None and measured:
        return
    way = f"{flag}: true in its flags, or " if flag else ""
    raise UserError(
        f"the grid's metric is {metric}, and no run measures it: training gives train_loss and, if it evaluates, "
        f"eval_loss; need {way}a command under evaluate that writes its result below {FOLDER}; add one, or choose "
        "another metric"
    )


def _filled(command: str, fill: dict[str, object]) -> tuple[str, ...]:
    try:
        words = tuple(word.format(**fill) for word in shlex.split(command))
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"found the command {command!r} ({error}); need {{model}}, {{adapter}} and {{folder}}"
        ) from error
    if not words or not Path(words[0]).is_file():
        raise UserError(f"the command {command!r} begins with no file; need a Python script such as eval/mmlu.py")
    return words


def _cost(args: InstructionArguments, base_model: str) -> float:
    """Return operations of a training: 4 per token and weight of the frozen base, 6 per weight of an adapter."""
    model = meta_model(base_model, args.model.trust_remote_code)
    plan = args.adapter_settings.plan(model)
    base = sum(parameter.numel() for parameter in model.parameters())
    train = args.train
    by_steps = train["max_steps"] * train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    rows = by_steps if train["max_steps"] > 0 else ROWS_OF_AN_EPOCH * train["num_train_epochs"]
    return rows * args.data.row_len * (4 * base + 6 * plan.num_unshared)


def is_done(run: Run) -> bool:
    """Whether a run has ended with all its evaluations.

    Raises:
        UserError: a run with other settings has ended in its folder.
    """
    file = run.folder / ENDED
    if not file.is_file():
        return False
    ended = read_json(file, {"train": [str], "evaluate": [[str]]})
    if ended != run.settings and not _means_the_same(ended, run):
        raise UserError(
            f"{run.folder} holds a run with other settings; the grid has changed since; choose another --output, or "
            "remove that folder"
        )
    return True


def _means_the_same(ended: Any, run: Run) -> bool:
    """Whether a run that has ended was told the same in other words: `--bf16 True` and `--bf16 true`."""
    try:
        return bool(
            ended["evaluate"] == run.settings["evaluate"] and parse(ended["train"]).values == parse(run.words).values
        )
    except (UserError, LookupError, TypeError):
        return False


def execute(words: Sequence[str], log: Path) -> None:
    """Run Python with these words in its own process, and keep its output.

    Raises:
        UserError: it failed; the message ends with its last line.
    """
    done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    write_text(log, done.stdout)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"{last} (all of it in {log})")


def do(run: Run, execute: Execute = execute) -> None:
    """Train and evaluate; both continue where an interrupted run stopped."""
    execute(["-m", WORKER, *run.words], run.folder / LOG)
    for number, command in enumerate(run.commands):
        execute(command, run.folder / f"evaluate{number}.log")
    write_json(run.folder / ENDED, run.settings)


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Return each run once, the cheapest first, so that what is wrong with a grid shows early."""
    unique = {run.folder: run for run in runs}
    return sorted(unique.values(), key=lambda run: run.cost)


def do_all(runs: Sequence[Run], execute: Execute = execute) -> None:
    """Do what is not done yet, with a line for each run that ends.

    Raises:
        UserError: a run failed; those that have ended stay, and the same command continues from there.
    """
    todo = [run for run in runs if not is_done(run)]
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them done before", flush=True)
    began, whole, spent = time.monotonic(), sum(run.cost for run in todo), 0.0
    for number, run in enumerate(todo, 1):
        try:
            do(run, execute)
        except UserError as error:
            raise UserError(
                f"run {run.folder} failed: {error}; put it right and start again: what is done stays"
            ) from error
        spent += run.cost
        left = timedelta(seconds=round((whole - spent) * (time.monotonic() - began) / spent))
        print(f"[{number}/{len(todo)}] {run.folder}; {left} left", flush=True)
