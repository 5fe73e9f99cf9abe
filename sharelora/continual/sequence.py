"""A sequence of tasks: which ones, the flags that tune each, and the folders of its stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.support.errors import UserError
from sharelora.support.files import write_json
from sharelora.support.reading import read_json
from sharelora.support.text import nearest
from sharelora.training.arguments import ADAPTER
from sharelora.training.instructions.job import JOB, InstructionArguments, parse

SHARES = ("none", "a", "b", "ab")
SETTINGS = "sequence.json"
UNTOUCHED = "base"  # folder of the scores before the first stage
# Flags of every stage unless the command line has others: no checkpoint is chosen on the rows that score it.
DEFAULTS = "--do_train true --do_eval false --eval_strategy no --save_total_limit 1".split()
# A small model learns within few updates, and a run stays within minutes on two cores.
TINY = (
    "--tiny true --max_steps 40 --save_steps 40 --few_shot 0 --eval_dataset_size 64 --max_eval_samples 64 "
    "--max_new_tokens 32"
).split()
# Settings that may differ between the stages of one sequence.
_OF_ONE_SHARE = ("share", "adapter")
# Flags that the scores depend on, in addition to those of the tuning.
_SCORING = ("max_eval_samples", "max_new_tokens", "mmlu_dataset", "mmlu_split", "mmlu_source_max_len")


@dataclass(frozen=True)
class Task:
    """A data set to learn.

    Args:
        dataset: its name, see `sharelora.data.registry`.
        format: its prompts.
        source_len: most tokens of a prompt.
        target_len: most tokens of an answer.
    """

    dataset: str
    format: str
    source_len: int
    target_len: int

    def defaults(self) -> list[str]:
        """The flags that the command line may change for all tasks together."""
        held_out = ["--eval_dataset_size", "500", "--max_eval_samples", "500"]
        lengths = ["--source_max_len", str(self.source_len), "--target_max_len", str(self.target_len)]
        return [*lengths, *held_out]

    def fixed(self) -> list[str]:
        """The flags that make it this task."""
        return ["--dataset", self.dataset, "--dataset_format", self.format]


# Lengths as in the scripts that tune LLaMA 3 on each alone (scripts/tasks.yaml).
TASKS: dict[str, Task] = {
    "alpaca": Task("alpaca", "alpaca", 512, 512),
    "gsm8k": Task("gsm8k", "GSM8K", 1024, 512),
    "code": Task("hf_codealpaca", "HF_CODE", 512, 1024),
}


@dataclass(frozen=True)
class TaskSequence:
    """The tasks of one comparison, in their order.

    Args:
        tasks: names of `TASKS`, in the order of learning.
        score: a name of `sharelora.continual.scores.SCORES`.
        output: folder with one for every way of sharing in it.
        words: flags of every stage's tuning, see `sharelora.training.arguments`.
        limit: most questions of a task, where the score asks questions; None for all.
        tiny: use the project's own small model and data.

    Raises:
        UserError: fewer than two tasks, an unknown one, or one named twice.
    """

    tasks: tuple[str, ...]
    score: str
    output: Path
    words: tuple[str, ...]
    limit: int | None = None
    tiny: bool = False

    def __post_init__(self) -> None:
        require_tasks(self.tasks)

    def arguments(self, task: str, folder: Path, *more: str) -> InstructionArguments:
        """Return the main job's command line for one task.

        Args:
            task: its name.
            folder: where the job writes.
            more: flags that no other may change.

        Raises:
            UserError: an unknown, refused or malformed flag; or nothing is to be trained.
        """
        tiny = TINY if self.tiny else []
        limit = [] if self.limit is None else ["--max_mmlu_samples", str(self.limit)]
        changeable = [*DEFAULTS, *TASKS[task].defaults(), *tiny, *limit, *self.words]
        if not parse(changeable).train["do_train"]:
            raise UserError("found --do_train false; need stages that are trained; drop the flag")
        return parse([*changeable, *TASKS[task].fixed(), "--output_dir", str(folder), *more])

    def untouched(self) -> InstructionArguments:
        """Return the command line that loads the model before the first stage."""
        return self.arguments(self.tasks[0], self.output / UNTOUCHED, "--adapter", "none", "--do_train", "false")

    def stage(self, share: str, number: int, *more: str) -> InstructionArguments:
        """Return the command line of a stage, which continues from the adapter of the one before.

        Args:
            share: which matrices are shared, one of `SHARES`.
            number: of the stage, from 1.
            more: see `arguments`.
        """
        start = ["--adapter", str(self.folder(share, number - 1) / ADAPTER)] if number > 1 else []
        return self.arguments(self.tasks[number - 1], self.folder(share, number), "--share", share, *start, *more)

    def folder(self, share: str, number: int) -> Path:
        """Return the folder of a stage, counted from 1."""
        return self.output / share / f"{number}_{self.tasks[number - 1]}"

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the scores except the sharing: ways of it may be added."""
        settings: dict[str, Any] = {"tasks": ",".join(self.tasks), "score": self.score, "limit": self.limit}
        for name in self.tasks:
            args = self.arguments(name, self.output)
            deciding = {**JOB.deciding(args), **{key: args.values[key] for key in _SCORING}}
            settings.update({f"{key} of {name}": value for key, value in deciding.items() if key not in _OF_ONE_SHARE})
        return settings

    def remember(self) -> None:
        """Record the settings in the folder, so that stages of another sequence are never mixed with these.

        Raises:
            UserError: the folder holds another sequence; the message names the first difference.
        """
        file, now = self.output / SETTINGS, self.settings()
        before = read_json(file) if file.is_file() else now
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            name = changed[0]
            raise UserError(
                f"{self.output} holds stages with {name} {before.get(name)}, these have {now[name]}; need one sequence "
                "per folder; choose another --output"
            )
        write_json(file, now)


def require_tasks(tasks: Iterable[str]) -> None:
    """Check the names of a sequence.

    Raises:
        UserError: fewer than two, an unknown one (the nearest is named), or one named twice.
    """
    names = list(tasks)
    for name in names:
        if name not in TASKS:
            near = nearest(name, TASKS)
            advice = f"did you mean {near[0]}?" if near else "change --tasks"
            raise UserError(f"found task {name!r}; need some of {', '.join(TASKS)}; {advice}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"found task {repeated[0]} twice; need every task once; change --tasks")
    if len(names) < 2:
        raise UserError(f"found one task, {', '.join(names)}; need two that follow each other; change --tasks")
