"""A run: what was decided about it before anything is loaded, and later its data, model and Trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from transformers import TrainerCallback, TrainerState

from sharelora.flags.adapter import AdapterSettings
from sharelora.trainer.callbacks import Speed
from sharelora.trainer.devices import Precision
from sharelora.trainer.trainer import AdapterTrainer
from sharelora.training.arguments import Arguments
from sharelora.training.capacity import Outlook

A = TypeVar("A", bound=Arguments)
D = TypeVar("D", bound="Data")


@dataclass(frozen=True)
class Run(Generic[A]):
    """Everything that is decided at the door (`sharelora.training.resolve`).

    Attributes:
        args: the options, as they are recorded.
        adapter: what is adapted and shared, as it is used: of the base, with measured groups.
        precision: of the base and the computation.
        training: train; False for a finished run, and for evaluation and prediction only.
        resume: the checkpoint to resume from.
        trained: the adapter (or full model) to start from, or to evaluate.
        base: the base model's folder or hub id.
        base_name: its name as files record it.
        data_root: folder of local data; None leaves it to SHARELORA_DATA and the hub.
        workspace: a folder for files of this run alone, which goes with it.
        outlook: plan, memory and this machine; None where nothing was estimated.
    """

    args: A
    adapter: AdapterSettings
    precision: Precision
    training: bool
    resume: Path | None
    trained: Path | None
    base: str
    base_name: str
    data_root: Path | None
    workspace: Path
    outlook: Outlook | None = None

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.args.output_dir


@dataclass(frozen=True)
class Data:
    """The rows of a run as the Trainer takes them; a task may add fields.

    Attributes:
        tokenizer: the base's.
        train: rows to learn, which may know their `lengths` in tokens, and the `arrays` that decide what is learned, by
            which a resumed run knows them again; None if nothing is trained.
        eval: rows to evaluate on, by name if there are several sets; None if nothing is evaluated.
        collator: makes batches of both.
        origin: where they were found.
        truncated: what was cut off, as JSON data.
    """

    tokenizer: Any
    train: Any
    eval: Any
    collator: Any
    origin: str
    truncated: Any

    @property
    def lengths(self) -> list[int] | None:
        """Tokens of each training row, to group them by; None if they are not known."""
        lengths = getattr(self.train, "lengths", None)
        return None if lengths is None else [int(length) for length in lengths]


class LastEvaluation(TrainerCallback):
    """Remember the latest evaluation, so that the same weights are not evaluated twice.

    Attributes:
        step: updates before it; None without one.
        metrics: as the Trainer returned them, with what other callbacks have added.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.metrics: dict[str, Any] = {}

    def on_evaluate(
        self, args: Any, state: TrainerState, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Take note."""
        self.step, self.metrics = state.global_step, metrics or {}


@dataclass
class Session(Generic[A, D]):
    """A run with its data and its Trainer, which has the model.

    Attributes:
        run: what was decided.
        speed: measures tokens per second.
        evaluation: the latest one.
        trained: folder of what was trained, or is being evaluated; None for the bare base.
        started: when the run began, by `time.monotonic`.
        metrics: what has been measured so far.
        evaluated: whether the weights that are kept have been evaluated.
    """

    run: Run[A]
    data: D
    trainer: AdapterTrainer
    speed: Speed
    evaluation: LastEvaluation
    trained: Path | None
    started: float
    metrics: dict[str, Any] = field(default_factory=dict)
    evaluated: bool = False

    @property
    def args(self) -> A:
        """The options of the run."""
        return self.run.args

    @property
    def model(self) -> Any:
        """The model, without what wraps it for training."""
        return self.trainer.model

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return bool(self.trainer.is_world_process_zero())
