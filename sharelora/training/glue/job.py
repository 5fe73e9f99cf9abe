"""Tuning encoders on GLUE: what the runner asks about methods, heads, the selection of an epoch, and records."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from sharelora.flags.adapter import AdapterSettings
from sharelora.flags.sharing import parse_modules
from sharelora.memory.advice import FlagNames
from sharelora.models.context import context_of
from sharelora.models.encoders import default_modules
from sharelora.models.known import meta_classifier
from sharelora.models.load import load_tokenizer
from sharelora.reporting.history import CSV
from sharelora.support.errors import UserError
from sharelora.trainer.devices import on_gpu
from sharelora.trainer.launch import Setup
from sharelora.training.arguments import MODEL
from sharelora.training.capacity import Outlook, known_optimizer, look_at
from sharelora.training.glue.base import Base, encoder_config, load_encoder, read_config, sequence_length
from sharelora.training.glue.data import HELD_OUT, TRAIN, TaskData, TaskRows, read_task, tokenize
from sharelora.training.glue.head import head_modules
from sharelora.training.glue.losses import Consistency
from sharelora.training.glue.methods import BuildSettings, Method
from sharelora.training.glue.model import Counts, build, count, start_from
from sharelora.training.glue.options import COMMAND, GlueArguments, build_parser, parse
from sharelora.training.glue.record import Record, check_record, read_record
from sharelora.training.glue.report import PREDICTIONS, predict, save_trained, weight_file, write_evaluations
from sharelora.training.glue.selection import Entry, Kept, Selection, read_evaluations, summary
from sharelora.training.glue.start import Start, find_start
from sharelora.training.glue.trainer import GlueTrainer
from sharelora.training.job import Job
from sharelora.training.results import write_numbers
from sharelora.training.run import Run, Session
from sharelora.training.runner import run_job
from sharelora.training.settings import CHOOSING, deciding_settings

__all__ = ["JOB", "build_parser", "parse", "run"]

logger = logging.getLogger(__name__)

GlueSession = Session[GlueArguments, TaskData]
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class Source:
    """What a run works with before a model is loaded.

    Attributes:
        rows: of the task.
        start: trained weights to continue from or to evaluate; None for the bare encoder.
    """

    rows: TaskRows
    start: Start | None


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch refuse operations whose result may differ from run to run; afterwards all is as before."""
    before, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(_WORKSPACE)
    try:
        if wanted:
            # As LoRA's scripts set it; cuBLAS asks for it.
            os.environ.setdefault(_WORKSPACE, ":16:8")
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        if wanted and workspace is None:
            os.environ.pop(_WORKSPACE, None)


class GlueJob(Job[GlueArguments, TaskData]):
    """GLUE, as the runner asks about it."""

    command = COMMAND
    names = FlagNames("per_device_train_batch_size", "gradient_accumulation_steps", ("max_seq_length",), bits=False)
    tiny_base = "roberta"
    adapter_flag = "--lora_path"
    bare = "another --output_dir"
    # They begin as the tokenizer writes them.
    begins = False
    one_gpu = True

    # Before anything is loaded.

    def surroundings(self, args: GlueArguments) -> AbstractContextManager[None]:
        """Refuse operations whose result may differ, on request."""
        return deterministic(args.how.use_deterministic_algorithms)

    def check(self, args: GlueArguments) -> None:
        """Refuse what cannot work, or does nothing."""
        super().check(args)
        if not any(args.train[name] for name in ("do_train", "do_eval", "do_predict")):
            raise UserError("there is nothing to do; pass --do_train, --do_eval or --do_predict")

    def engine(self, args: GlueArguments) -> Setup:
        """Describe a run to the rules of engines: the loss is this Trainer's own."""
        shares = args.method.sharing is not None and args.adapter_settings.shares
        return replace(super().engine(args), job="glue", shares=shares, answers=False)

    def deciding(self, args: GlueArguments) -> dict[str, Any]:
        """Return the settings that decide what is trained; evaluations choose the weights that are kept."""
        return deciding_settings(args, CHOOSING, ("max_predict_samples", "test_file"))

    def resolve_adapter(self, source: str) -> Path:
        """Return what is named; `find_start` looks for it, since it may be a file of LoRA's."""
        return Path(source)

    def locate_base(self, args: GlueArguments, trained: Path | None) -> str:
        """Return the encoder; of a finished run that tuned every weight, the tuned one takes its place."""
        return str(trained) if trained == args.output_dir / MODEL else super().locate_base(args, trained)

    def adapter(self, args: GlueArguments, base: str, trained: Path | None) -> AdapterSettings:
        """Adapt query and value of the architecture where no modules are named; flags must agree with `trained`."""
        settings = args.adapter_settings
        if settings.modules is not None or args.method.sharing is None:
            return settings
        config = read_config(args.model, base)
        meta_classifier(config)  # refuses a model without one
        return settings.with_modules(parse_modules(default_modules(config.model_type)))

    def read(self, run: Run[GlueArguments]) -> Source:
        """Read the task's rows, and find the weights to start from."""
        rows = read_task(run)
        if run.trained is None or run.trained == run.folder / MODEL:
            return Source(rows, None)
        return Source(rows, find_start(run, str(run.trained)))

    def foresee(self, run: Run[GlueArguments], source: Source) -> Outlook | None:
        """Say what would be trained: the plan, counts with and without head, and the memory of low-rank adapters.

        Returns:
            The outlook; None for what the estimate does not cover: other methods, and adapters that bring a plan.
        """
        args, rows, start = run.args, source.rows, source.start
        config = encoder_config(args, run.base, rows.task)
        length, method = sequence_length(args, config), start.method if start else args.method
        sizes = ", ".join(f"{len(part):,} {split}" for split, part in rows.splits.items())
        logger.info("task %s from %s: %s rows", rows.task.name, rows.origin, sizes)
        model = meta_classifier(config)
        if start is not None:
            logger.info("starts from %s (%s), whose plan is its own", start.source, method.name)
            return None
        if method.sharing is None:
            with torch.device("meta"):
                base = Base(model, head_modules(model), False, "")
                logger.info("%s", count(build(base, method, args.build_settings), base.head))
            return None
        train = args.train
        settings = {
            "bits": 32,
            "dtype": "bf16" if train["bf16"] else "fp16" if train["fp16"] else "fp32",
            "batch": train["per_device_train_batch_size"],
            "tokens": length,
            "optimizer": known_optimizer(train),
            "checkpointing": train["activation_checkpointing"],
            "lora_dropout": run.adapter.dropout,
            "share_dropout_mask": run.adapter.share_dropout_mask,
            "device": "cuda" if on_gpu(train["use_cpu"]) else "cpu",
        }
        row = {"max_seq_length": args.data.max_seq_length}
        accumulation = train["gradient_accumulation_steps"]
        outlook = look_at(model, run.adapter, row, settings, accumulation, self.names, run.folder)
        head = sum(weight.numel() for path in head_modules(model) for weight in model.get_submodule(path).parameters())
        total = sum(weight.numel() for weight in model.parameters()) + outlook.plan.num_parameters
        logger.info("%s\n\n%s", outlook.plan.table(), Counts(outlook.plan.num_parameters, head, total))
        logger.info("%s\n%s", outlook.need.table(), outlook.need.verdict(outlook.there))
        return outlook

    def check_data(self, run: Run[GlueArguments], source: Source) -> int | None:
        """Do nothing more: the rows have been read."""
        return len(source.rows.splits[TRAIN]) if run.training else None

    # Data, model, Trainer.

    def load_data(self, run: Run[GlueArguments], source: Source) -> TaskData:
        """Load the tokenizer and tokenise the rows.

        Raises:
            UserError: what is to be evaluated was trained for another task, as far as that is known.
        """
        args, start, task = run.args, source.start, source.rows.task
        record, folder = (start.record, start.folder) if start else (None, Path(run.base))
        if start is None and folder.is_dir():
            record = read_record(folder)
        if record is not None and not run.training:
            check_record(record, task.name, task.labels, folder)
        config = encoder_config(args, run.base, task)
        length = sequence_length(args, config, start.record.max_seq_length if start and start.record else None)
        tokenizer = load_tokenizer(args.model.tokenizer_name or run.base, **args.model.hub)
        return tokenize(run, source.rows, tokenizer, length, start, context_of(config))

    def make_trainer(self, run: Run[GlueArguments], data: TaskData, **settings: Any) -> GlueTrainer:
        """Load the encoder, put on it what the method trains, and make the Trainer."""
        args, start, rows = run.args, data.start, data.rows
        method = start.method if start else args.method
        base = load_encoder(args, run.base, rows.task, own_head=start is None)
        build_settings = replace(args.build_settings, adapter=run.adapter)
        chosen = HELD_OUT in rows.splits and run.training
        return GlueTrainer(
            model=_model(run, base, start, build_settings),
            metrics=rows.task.metrics,
            regression=rows.task.regression,
            storage=method.storage,
            selection=Selection(args.how.selection_metric or rows.main_metric) if chosen else None,
            consistency=_consistency(args, data.tokenizer),
            head=base.head,
            record=_record(run, data, method, base),
            **settings,
        )

    def shown(self, data: TaskData) -> dict[str, str]:
        """Show every metric of every split."""
        rows = data.rows
        return {f"eval_{split}_{m}": f"{split} {m} {{:.4f}}" for split in rows.evaluated for m in rows.metric_names}

    def trained(self, run: Run[GlueArguments], data: TaskData) -> Path | None:
        """Return the folder of what is evaluated or trained on, in a form of this project."""
        return data.start.folder if data.start else run.trained

    # What is measured, and what is left.

    def count(self, session: GlueSession) -> Counts:
        """Count the model's elements, with and without the head."""
        counts = count(session.model, _trainer(session).head)
        session.metrics.update(trainable=counts.trained, trainable_head=counts.head, parameters=counts.total)
        return counts

    def measure(self, session: GlueSession) -> None:
        """Evaluate the last weights unless that has been done, and put the weights that are kept into the model."""
        trainer, rows, args = _trainer(session), session.data.rows, session.args
        session.metrics["train_samples"] = len(rows.splits[TRAIN])
        entries: list[Entry] = []
        if args.train["do_eval"]:
            entries = read_evaluations(trainer.state.log_history, rows)
            if not entries or entries[-1]["step"] != trainer.state.global_step:
                trainer.evaluate()
                entries = read_evaluations(trainer.state.log_history, rows)
        session.evaluated = True
        selection, last = trainer.selection, float(trainer.state.epoch or 0)
        selected = None if selection is None or not selection.weights else selection.step
        if entries:
            session.metrics.update(summary(entries, rows, selected))
        if selection is None or selected is None or args.how.save_epoch == "last":
            trainer.kept = Kept("last", last, entries)
            return
        selection.restore(session.model)
        trainer.kept = Kept("selected", selection.epoch, entries)
        logger.info(
            "epoch %g is kept, with held-out %s %.4f; the last one is %g", selection.epoch, selection.metric,
            selection.value, last,
        )  # fmt: skip

    def evaluate(self, session: GlueSession) -> None:
        """Evaluate every split."""
        rows = session.data.rows
        entry = {name.removeprefix("eval_"): value for name, value in session.trainer.evaluate().items()}
        names = [f"{split}_{metric}" for split in rows.evaluated for metric in rows.metric_names]
        session.metrics.update({name: entry[name] for name in names})
        if session.writes:
            write_evaluations(session.run, rows, entry, "evaluated")

    def predict(self, session: GlueSession) -> None:
        """Write predictions of every test split."""
        for file in predict(session.run, _trainer(session), session.data, session.writes):
            logger.info("wrote %s", file)

    def save(self, session: GlueSession, weights: dict[str, Any] | None) -> Path:
        """Write the weights that are kept, and their evaluations."""
        run, trainer = session.run, _trainer(session)
        kept = trainer.kept
        assert kept is not None, "measured before"
        folder = save_trained(run, trainer, session.data.tokenizer, kept.epoch)
        session.metrics.update(saved_epoch=kept.which, adapter_bytes=weight_file(folder).stat().st_size)
        for entry in kept.evaluations:
            if entry["epoch"] == kept.epoch:
                write_evaluations(run, session.data.rows, entry, kept.which)
        return folder

    def history(self, session: GlueSession) -> list[dict[str, Any]]:
        """Name one split's loss as the table and the plot want it."""
        splits = session.data.rows.evaluated
        name = f"eval_{splits[0]}_loss" if splits else ""
        lines = session.trainer.state.log_history
        return [{**line, "eval_loss": line[name]} if name in line else line for line in lines]

    def settings_json(self, session: GlueSession) -> dict[str, Any]:
        """Return the settings that a result records, with what was trained in fact."""
        return {**super().settings_json(session), "learned_by": _trainer(session).record.method}

    def files(self, session: GlueSession) -> dict[str, Path]:
        """Return the files that a result describes."""
        predictions = sorted((session.run.folder / PREDICTIONS).glob("*"))
        return {
            **({"adapter": weight_file(session.trained)} if session.trained else {}),
            **{f"predictions_{file.stem}": file for file in predictions},
            "loss": session.run.folder / CSV,
        }

    def write_numbers(self, session: GlueSession) -> None:
        """Write every number into all_results.json, as LoRA's script does."""
        run = session.run
        write_numbers(run.folder / "all_results.json", session.metrics, add=not run.training)


def _trainer(session: GlueSession) -> GlueTrainer:
    return cast(GlueTrainer, session.trainer)


def _model(run: Run[GlueArguments], base: Base, start: Start | None, settings: BuildSettings) -> Any:
    if start is not None:
        return start_from(base, start, settings, run.args.model.new_head, run.training)
    if run.training:
        return build(base, run.args.method, settings)
    if not base.trained_head:
        raise UserError(
            f"model {run.base} has no head for this task, and nothing is to be trained; need a trained head; pass "
            "--lora_path DIR to evaluate an adapter, or --do_train"
        )
    return base.model.requires_grad_(False)


def _consistency(args: GlueArguments, tokenizer: Any) -> Consistency | None:
    if not args.how.reg_loss_wgt:
        return None
    if args.how.masking_prob and tokenizer.unk_token_id is None:
        raise UserError("found --masking_prob; need a tokenizer with an unknown token; drop the flag")
    kept = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id} - {None}
    return Consistency(args.how.reg_loss_wgt, args.how.masking_prob, tokenizer.unk_token_id or 0, kept)


def _record(run: Run[GlueArguments], data: TaskData, method: Method, base: Base) -> Record:
    start, task = data.start, data.rows.task
    given = {name: run.args.values[name] for name in method.settings}
    return Record(
        task=task.name,
        labels=task.labels,
        method=method.name,
        settings=start.record.settings if start and start.record else given,
        base=run.base_name,
        base_sha256=base.fingerprint,
        max_seq_length=data.max_length,
    )


JOB = GlueJob()


def run(args: GlueArguments, prepare: Callable[[Any], None] | None = None) -> GlueSession | None:
    """Do what the command line asks for, see `sharelora.training.runner.run_job`."""
    return run_job(JOB, args, prepare=prepare)
