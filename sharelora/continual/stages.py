"""The stages of a sequence: tune what is not tuned yet, score what is not scored yet, one model at a time."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sharelora.continual.scores import SCORES, Measure, TaskSetup
from sharelora.continual.sequence import TaskSequence
from sharelora.models.load import load_tokenizer
from sharelora.support.errors import UserError
from sharelora.support.files import write_json
from sharelora.support.reading import misfit, read_json
from sharelora.trainer.devices import processes
from sharelora.training.instructions.job import InstructionArguments, run
from sharelora.training.model import locate_base

logger = logging.getLogger(__name__)

SCORED = "scores.json"
Measures = Mapping[str, Measure]


@dataclass(frozen=True)
class ShareResult:
    """The scores of one way of sharing.

    Args:
        share: which matrices are shared, one of `SHARES`.
        matrix: a row of scores per stage, the untouched model's first, with one per task.
        seconds: wall clock time of all stages, tuning and scoring, without the untouched model's.
        last: folder of the last stage.
    """

    share: str
    matrix: tuple[tuple[float, ...], ...]
    seconds: float
    last: Path


def prepare(sequence: TaskSequence) -> dict[str, Measure]:
    """Read and check the data of every task's score; loads no model.

    Raises:
        UserError: several processes, no base model, or data that a score needs and that are missing.
    """
    if processes() > 1:
        raise UserError(
            f"found {processes()} processes; need one, which spreads the model over all GPUs; start without a launcher"
        )
    ways = SCORES[sequence.score].tasks
    missing = [name for name in sequence.tasks if name not in ways]
    if missing:
        raise UserError(f"found task {missing[0]} without the score {sequence.score}; change --score or --tasks")
    setups = _setups(sequence)
    if SCORES[sequence.score].asks:
        logger.info("exams: %s", setups[0].begin.line().strip())
    return {setup.name: ways[setup.name](setup) for setup in setups}


def prompts_begin(sequence: TaskSequence) -> dict[str, Any]:
    """Return what the prompts of exams begin with, for a result; empty where the scores are no exams."""
    asks = SCORES[sequence.score].asks
    return {"prompts_begin": _setups(sequence)[0].begin.to_json()} if asks else {}


def _setups(sequence: TaskSequence) -> list[TaskSetup]:
    first = sequence.untouched()
    base, model = locate_base(first), first.model
    tokenizer = load_tokenizer(base, model.model_revision, model.hub_token, model.trust_remote_code, model.cache_dir)
    return [
        TaskSetup(name, sequence.arguments(name, sequence.output), base, tokenizer, sequence.limit)
        for name in sequence.tasks
    ]


def check(sequence: TaskSequence, shares: Iterable[str]) -> None:
    """Check the first stage of every way of sharing as far as is possible without weights; print the estimates.

    Raises:
        UserError: what the main job refuses.
    """
    for share in shares:
        run(sequence.stage(share, 1, "--dry_run", "true"))


def run_share(sequence: TaskSequence, share: str, measures: Measures) -> ShareResult:
    """Tune and score all tasks with one way of sharing, as far as that is not done yet.

    Args:
        sequence: the tasks.
        share: one of `sharelora.continual.sequence.SHARES`.
        measures: as `prepare` returns them.

    Raises:
        UserError: what the main job refuses, or a score that is NaN or infinite.
    """
    # The untouched model is the same for every way of sharing.
    rows = [_scored(sequence.untouched(), measures)]
    stages = [sequence.stage(share, number) for number in range(1, len(sequence.tasks) + 1)]
    for number, args in enumerate(stages, 1):
        logger.info("share %s, stage %d of %d: %s", share, number, len(stages), sequence.tasks[number - 1])
        rows.append(_scored(args, measures))
    matrix = tuple(tuple(row.scores[name] for name in sequence.tasks) for row in rows)
    return ShareResult(share, matrix, math.fsum(row.seconds for row in rows[1:]), stages[-1].output_dir)


@dataclass(frozen=True)
class _Row:
    scores: dict[str, float]
    seconds: float


def _scored(args: InstructionArguments, measures: Measures) -> _Row:
    """Return the scores of a stage, from its file if there is one."""
    file = args.output_dir / SCORED
    if file.is_file():
        return _read(file, measures)
    row = _tune_and_score(args, measures)
    # The optimizer and the Trainer refer to each other, and would still hold this model when the next one is loaded.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    write_json(file, vars(row))
    return row


def _tune_and_score(args: InstructionArguments, measures: Measures) -> _Row:
    began = time.monotonic()
    session = run(args)
    assert session is not None, "a dry run has no scores"
    scores = {name: measure(session) for name, measure in measures.items()}
    unusable = [name for name, score in scores.items() if not math.isfinite(score)]
    if unusable:
        name = unusable[0]
        raise UserError(f"the score of {name} in {args.output_dir} is {scores[name]}; lower --learning_rate")
    return _Row(scores, time.monotonic() - began)


def _read(file: Path, measures: Measures) -> _Row:
    """Read a file of scores.

    Raises:
        UserError: it is damaged.
    """
    saved = read_json(file)
    if fault := misfit(saved, {"scores": dict.fromkeys(measures, float), "seconds": float}):
        raise UserError(f"{file} is damaged (it has {fault}); remove it to score that stage again")
    return _Row({name: float(saved["scores"][name]) for name in measures}, float(saved["seconds"]))
