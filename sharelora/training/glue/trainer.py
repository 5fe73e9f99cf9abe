"""The Trainer of classifiers: its loss, the order of evaluation, its checkpoints, and the best weights so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler
from transformers import EvalPrediction

from sharelora.metrics.glue import compute
from sharelora.trainer.samplers import counted
from sharelora.trainer.trainer import AdapterTrainer
from sharelora.training.glue.losses import Consistency, example_losses
from sharelora.training.glue.methods import Storage
from sharelora.training.glue.record import Record
from sharelora.training.glue.selection import Kept, Selection


class Ordered(Sampler[int]):
    """A fixed order of examples."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = list(order)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)


def by_length(lengths: Sequence[int]) -> list[int]:
    """Return examples from long to short: batches have hardly any padding, and the first one shows what fits."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])


class GlueTrainer(AdapterTrainer):
    """The Trainer for classes and scores.

    Args:
        metrics: names in `sharelora.metrics.glue`.
        regression: whether scores are predicted.
        storage: how trained weights are saved.
        selection: the best weights so far; None to choose none.
        consistency: R-drop; None for the plain loss.
        head: paths of the modules that make up the head.
        record: what is written with the weights.

    Attributes:
        kept: which weights the model has after training; None before.
    """

    # The loss is divided by the examples of the whole update, not of a batch.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        metrics: Sequence[str],
        regression: bool,
        storage: Storage,
        selection: Selection | None = None,
        consistency: Consistency | None = None,
        head: Sequence[str],
        record: Record,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, compute_metrics=self._score, **kwargs)
        self.metrics = tuple(metrics)
        self.regression = regression
        self.storage = storage
        self.selection = selection
        self.consistency = consistency
        self.head = tuple(head)
        self.record = record
        self.kept: Kept | None = None

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """Count the examples of an update over all its batches and processes."""
        rows = torch.tensor(sum(int(counted(batch["labels"]).sum()) for batch in batch_samples), device=device)
        return self.accelerator.gather(rows).sum() if self.args.world_size > 1 else rows

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the share of a batch in the mean loss of an update.

        transformers' classifiers return the mean of a batch, which the Trainer takes for such a share: with gradient
        accumulation its gradients are too large, and a short last batch counts as much as a full one.
        """
        inputs = dict(inputs)
        labels, smoothing = inputs.pop("labels"), self.args.label_smoothing_factor
        real = counted(labels)
        labels = labels.nan_to_num() if self.regression else labels
        if self.consistency is None:
            outputs = model(**inputs)
            losses = example_losses(outputs.logits, labels, self.regression, smoothing)
        else:
            # Both passes in one: dropout differs from row to row, and engines see one forward for one backward.
            outputs = model(**self.consistency.twice(inputs))
            first, second = outputs.logits.chunk(2)
            losses = self.consistency.losses(first, second, labels, smoothing)
        count = len(labels) if num_items_in_batch is None else num_items_in_batch
        # Data-parallel engines take the mean over processes.
        loss = (losses * real).sum() / count * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Tensor, Tensor | None]:
        """Return logits and labels of a batch; the loss comes from them, for the whole split."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits
        return None, logits.float(), labels

    def _score(self, prediction: EvalPrediction) -> dict[str, float]:
        logits, labels = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
        loss = float(example_losses(logits, labels, self.regression).double().mean())
        values = logits.reshape(len(labels)) if self.regression else logits.argmax(-1)
        return {**compute(self.metrics, values.numpy(), labels.numpy()), "loss": loss}

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        return Ordered(by_length(eval_dataset.lengths))

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate every split, and keep the weights if they are the best so far."""
        metrics = super().evaluate(eval_dataset, *args, **kwargs)
        if eval_dataset is None and self.selection is not None:
            self.selection.see(metrics, self._own_model(), self.state.global_step, float(self.state.epoch or 0))
        return metrics

    def logits(self, rows: Any) -> NDArray[np.floating[Any]]:
        """Return the logits of rows in their own order, (N, classes)."""
        found = np.asarray(self.predict(rows).predictions)
        logits = np.empty_like(found)
        logits[by_length(rows.lengths)] = found
        return logits

    def _own_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        self.storage.save(self._own_model(), folder)
        self.record.write(folder, self.state.epoch)
        if self.selection is not None:
            self.selection.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        if self.storage.load is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.storage.load(model or self._own_model(), folder)
        if self.selection is not None:
            self.selection.load(folder)
