"""The decoding from a parsed command line to its files: find, load, search, write."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass
from typing import Any

from sharelora.evaluation import command
from sharelora.evaluation.beam.decoding import Decoded, decode
from sharelora.evaluation.beam.model import load, locate
from sharelora.evaluation.beam.output import Measured, report, write, written
from sharelora.evaluation.beam.prompts import Prompts, end_tokens, load_prompts
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.beam.store import Store
from sharelora.models.load import load_tokenizer
from sharelora.reporting.progress import Progress
from sharelora.reporting.results import plan_facts
from sharelora.support.files import require_writable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What is to be decoded, all of it checked.

    Args:
        args: the command line.
        subject: base and adapter.
        tokenizer: the base's.
        settings: of the search.
        prompts: the inputs.
    """

    args: argparse.Namespace
    subject: command.Subject
    tokenizer: Any
    settings: BeamSettings
    prompts: Prompts

    def deciding(self) -> dict[str, Any]:
        """Return everything that decides which texts are found; the batch size is not among it."""
        args = self.args
        facts = {**self.subject.fingerprint(), **self.prompts.fingerprint()}
        return {**facts, "seq_len": args.seq_len, "dtype": args.dtype, **self.settings.data()}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line asks for.

    Args:
        args: as `sharelora.evaluation.beam.arguments.parse` returns.

    Returns:
        What was measured; empty after a dry run.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    began = time.monotonic()
    for notice in args.notices:
        logger.info("note: %s", notice)
    task = prepare(args)
    if args.dry_run:
        logger.info("dry run: nothing was loaded, decoded or written")
        return {}
    folder = require_writable(args.work_dir)
    store = Store(folder, task.deciding(), args.overwrite)
    measured = search(task, store)
    if measured.decoded is not None or not written(folder, args.output_file):
        files = write(folder, args.output_file, task.prompts, measured.best, task.tokenizer)
        report(args, folder, task.subject, measured, files, time.monotonic() - began)
    return measured.metrics()


def prepare(args: argparse.Namespace) -> Task:
    """Find and check everything that can be known before the model is loaded.

    Raises:
        UserError: the first thing that would fail.
    """
    subject = locate(args)
    tokenizer = load_tokenizer(subject.base)
    settings = beam_settings(args, tokenizer)
    prompts = load_prompts(tokenizer, args.data, args.split, args.seq_len, args.eval_len, command.data_root(args))
    rows = sum(map(len, prompts.rows))
    logger.info("%s: %s rows, %s distinct inputs", args.data, f"{rows:,}", f"{len(prompts.ids):,}")
    if prompts.report.cut:
        logger.warning("warning: %s", prompts.report.line())
    return Task(args, subject, tokenizer, settings, prompts.first(args.limit))


def beam_settings(args: argparse.Namespace, tokenizer: Any) -> BeamSettings:
    """Return the search that the flags ask for.

    Raises:
        UserError: a value that means nothing, or a token outside the vocabulary.
    """
    settings = BeamSettings(
        eos_ids=end_tokens(tokenizer, args.eos_token_id),
        beam=args.beam,
        eval_len=args.eval_len,
        min_length=args.min_length,
        length_penalty=args.length_penalty,
        no_repeat_ngram_size=args.no_repeat_ngram_size,
        repetition_penalty=args.repetition_penalty,
    )
    settings.require_vocabulary(len(tokenizer))
    return settings


def search(task: Task, store: Store) -> Measured:
    """Find the texts that are still missing; the model is loaded only if there are some."""
    known, count = len(store.found), len(task.prompts.ids)
    missing = [index for index in range(count) if index not in store.found]
    decoded, seconds, plan = None, 0.0, {}
    if missing:
        logger.info("%s of %s inputs are done", f"{known:,}", f"{count:,}")
        model = load(task.subject, task.args.dtype)
        began, plan = time.perf_counter(), plan_facts(model)
        decoded = _decode(task, model, missing, store)
        seconds = time.perf_counter() - began
    else:
        logger.info("all %s texts are there already: %s", f"{count:,}", store.path)
    best = tuple(store.found[index] for index in range(count))
    return Measured(task.prompts, task.settings, best, known, decoded, seconds, plan)


def _decode(task: Task, model: Any, missing: list[int], store: Store) -> Decoded:
    return decode(
        model,
        [task.prompts.ids[index] for index in missing],
        task.settings,
        task.tokenizer.pad_token_id,
        task.args.batch_size,
        keep=lambda new: store.add({missing[index]: text for index, text in new.items()}),
        listener=Progress("beam search", bar=24),
    )
