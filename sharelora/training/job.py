"""A job: the description of a task, which `sharelora.training.runner` runs."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from torch import nn
from transformers import TrainerCallback

from sharelora.flags.adapter import SAME, AdapterSettings
from sharelora.memory.advice import FlagNames
from sharelora.models.adapter import resolve_adapter
from sharelora.models.known import meta_model
from sharelora.reporting.history import CSV
from sharelora.support.lazy import moved_functions
from sharelora.trainer.devices import on_gpu
from sharelora.trainer.guards import require_schedule
from sharelora.trainer.launch import Setup, setup
from sharelora.trainer.trainer import AdapterTrainer
from sharelora.trainer.unsupported import refuse_engine
from sharelora.training.arguments import Arguments, CommandLine
from sharelora.training.capacity import Outlook, known_optimizer, look_at
from sharelora.training.layer_groups import group_on_texts
from sharelora.training.model import count, load_model, locate_base
from sharelora.training.results import METRICS, before_and_best, save_trained, weight_files, write_numbers
from sharelora.training.run import Data, Run, Session
from sharelora.training.settings import CHOOSING_CHECKPOINT, check_reporters, checkpointing, deciding_settings
from sharelora.tuner.files import CONFIG_FILE, read_config

logger = logging.getLogger(__name__)

A = TypeVar("A", bound=Arguments)
D = TypeVar("D", bound=Data)


class Job(Generic[A, D]):
    """The description of a task for the runner. The defaults here suit a language model whose loss is per token.

    Attributes:
        command: the command line.
        names: what it calls the settings that decide about memory.
        trainer: the Trainer, where `make_trainer` is not the task's own.
        tiny_base: kind of the small model that --tiny means.
        adapter_flag: the flag that takes an adapter, for messages.
        bare: what to pass for the bare base where the output folder holds an unfinished run.
        whole: modules of the base that are trained as a whole and saved with the adapter.
        also_precise: what else has a precision, for the log.
        begins: its rows begin with the begin token.
        one_gpu: the model is on one GPU even if there are more.
    """

    command: ClassVar[CommandLine[Any]]
    names: ClassVar[FlagNames]
    trainer: ClassVar[type[AdapterTrainer]]
    tiny_base: ClassVar[str] = "llama"
    adapter_flag: ClassVar[str] = "--adapter"
    bare: ClassVar[str] = "--adapter none"
    whole: ClassVar[tuple[str, ...]] = ()
    also_precise: ClassVar[str] = ""
    begins: ClassVar[bool] = True
    one_gpu: ClassVar[bool] = False

    # Before anything is loaded.

    def check(self, args: A) -> None:
        """Refuse what cannot work before anything is looked for.

        Raises:
            UserError: a package that --report_to needs is missing, the engine cannot do what is requested, or nothing
                would be trained.
        """
        if args.train["do_train"]:
            require_schedule(args.train["max_steps"], args.train["num_train_epochs"])
        check_reporters(args.train["report_to"])
        refuse_engine(self.engine(args))

    def engine(self, args: A) -> Setup:
        """Describe a run to the rules of engines."""
        return setup(
            args.train,
            shares=args.adapter_settings.shares,
            reentrant=checkpointing(args.train["activation_checkpointing_kwargs"])["use_reentrant"],
            bits=args.bits,
            full=args.full,
            answers=args.train["do_predict"],
        )

    def names_for(self, args: A) -> FlagNames:
        """Return what this command line calls the settings that decide about memory."""
        return self.names

    def deciding(self, args: A) -> dict[str, Any]:
        """Return the settings that decide what is trained, see `sharelora.training.settings.deciding_settings`."""
        return deciding_settings(args, CHOOSING_CHECKPOINT if args.train.get("load_best_model_at_end") else ())

    def resolve_adapter(self, source: str) -> Path:
        """Return the folder of an adapter that is named on the command line.

        Raises:
            UserError: it does not exist.
        """
        return resolve_adapter(source)

    def locate_base(self, args: A, trained: Path | None) -> str:
        """Return the base model's folder or hub id.

        Args:
            args: the options.
            trained: what is to be evaluated or trained on.
        """
        return locate_base(args, self.tiny_base)

    def adapter(self, args: A, base: str, trained: Path | None) -> AdapterSettings:
        """Return what is adapted and shared in a base.

        Args:
            args: the options.
            base: folder or hub id.
            trained: the adapter whose training goes on, if any: then it says so, not the flags.
        """
        return args.adapter_settings if trained is None else AdapterSettings.saved(read_config(trained))

    def surroundings(self, args: A) -> AbstractContextManager[Any]:
        """Return what holds while the job runs."""
        return nullcontext()

    def read(self, run: Run[A]) -> Any:
        """Read the rows, as far as that takes no model; returns what `load_data` gets.

        Raises:
            UserError: data that are missing or malformed.
        """

    def group(self, run: Run[A]) -> Run[A]:
        """Measure the layers for --share_groups auto."""
        return group_on_texts(run, self.begins)

    def meta_model(self, run: Run[A]) -> nn.Module:
        """Return the base on the meta device."""
        return meta_model(run.base, run.args.model.trust_remote_code)

    def foresee(self, run: Run[A], rows: Any) -> Outlook | None:
        """Plan the adapters on the meta device, estimate the memory, and say so; None if adapters are not trained.

        Raises:
            UserError: sharing flags that do not fit the model.
        """
        if run.args.full:
            return None
        model, args = self.meta_model(run), run.args
        settings = {
            "bits": run.precision.bits,
            "dtype": run.precision.dtype,
            "batch": args.train["per_device_train_batch_size"],
            "tokens": args.row_tokens,
            "optimizer": known_optimizer(args.train),
            "checkpointing": args.train["activation_checkpointing"],
            "lora_dropout": run.adapter.dropout,
            "share_dropout_mask": run.adapter.share_dropout_mask,
            "double_quant": args.model.quantisation.get("double_quant", True),
            "extra_trainable": sum(
                weight.numel() for name, weight in model.named_parameters() if set(self.whole) & set(name.split("."))
            ),
            "eval_batch": args.train["per_device_eval_batch_size"] if args.evaluates else 0,
            "device": "cuda" if on_gpu(args.train["use_cpu"]) else "cpu",
        }
        accumulation = args.train["gradient_accumulation_steps"]
        names = self.names_for(args)
        rows_of = {name: args.values[name] for name in names.rows}
        outlook = look_at(model, run.adapter, rows_of, settings, accumulation, names, run.folder)
        logger.info("%s", outlook)
        return outlook

    # Data, model, Trainer.

    def load_data(self, run: Run[A], rows: Any) -> D:
        """Load the tokenizer and turn the rows into what the Trainer takes.

        Args:
            run: which rows.
            rows: as `read` returned them.

        Raises:
            UserError: data that are missing or malformed, or a tokenizer of another model.
        """
        raise NotImplementedError

    def check_data(self, run: Run[A], rows: Any) -> int | None:
        """Do of `load_data` what a dry run checks; returns the number of training rows, None if it is not known."""
        train = self.load_data(run, rows).train
        return None if train is None else len(train)

    def load_model(self, run: Run[A], data: D) -> Any:
        """Load the base and put on it what the run needs.

        Raises:
            UserError: it is missing or damaged, or does not fit.
        """
        return load_model(run, whole=self.whole)

    def make_trainer(self, run: Run[A], data: D, **settings: Any) -> AdapterTrainer:
        """Load the model and make its Trainer.

        Args:
            run: which model.
            data: the rows.
            settings: what every Trainer is given.
        """
        return self.trainer(model=self.load_model(run, data), **settings)

    def callbacks(self, data: D) -> list[TrainerCallback]:
        """Return further callbacks of the Trainer."""
        return []

    def shown(self, data: D) -> dict[str, str]:
        """Return further values in the line of progress -> their words, with a place for the number."""
        return {}

    def trained(self, run: Run[A], data: D) -> Path | None:
        """Return the folder of what is evaluated or trained on; None for the bare base."""
        return run.trained

    # Measurements and results.

    def count(self, session: Session[A, D]) -> object:
        """Count the model's elements; returns what says so."""
        return count(session.model)

    def measure(self, session: Session[A, D]) -> None:
        """Put into a session's metrics what is known when training has ended, before anything is saved."""
        state = session.trainer.state
        session.metrics.update(before_and_best(state.log_history))
        best = session.trainer.args.load_best_model_at_end and state.best_global_step != state.global_step
        if session.evaluation.step == state.global_step and not best:
            session.metrics.update(session.evaluation.metrics)
            session.evaluated = True

    def evaluate(self, session: Session[A, D]) -> None:
        """Evaluate the model."""
        session.metrics.update(session.trainer.evaluate())

    def predict(self, session: Session[A, D]) -> None:
        """Write predictions, where --do_predict asks for them."""

    def save(self, session: Session[A, D], weights: dict[str, Any] | None) -> Path:
        """Write what was trained into the run's folder; returns the new folder.

        Args:
            session: the run.
            weights: the gathered ones of a model that an engine has cut into parts.
        """
        return save_trained(session.model, session.data.tokenizer, session.run.folder, weights)

    def history(self, session: Session[A, D]) -> list[dict[str, Any]]:
        """Return the log's lines for the table and the plot, which show `eval_loss`."""
        return session.trainer.state.log_history

    def settings_json(self, session: Session[A, D]) -> dict[str, Any]:
        """Return the settings that a result records."""
        run = session.run
        settings = {**run.args.to_json(), "precision": str(run.precision), "data": session.data.origin}
        file = None if run.trained is None or run.args.full else run.trained / CONFIG_FILE
        if file is not None and file.is_file():  # its own settings count, whatever the flags say
            config = read_config(file.parent)
            settings |= {flag: config.get(field) for flag, field in SAME.items()}
            settings["share"] = config.get("share") or "none"
        return settings

    def files(self, session: Session[A, D]) -> dict[str, Path]:
        """Return the files that a result describes, as far as they exist."""
        return {**weight_files(session.trained), "loss": session.run.folder / CSV}

    def write_numbers(self, session: Session[A, D]) -> None:
        """Write every number into metrics.json, under QLoRA's names."""
        run = session.run
        name = run.args.train["run_name"] or str(run.folder)
        write_numbers(run.folder / METRICS, session.metrics, add=not run.training, run_name=name)


if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __getattr__ = moved_functions(__name__)
