"""The Trainer of language models: its loss, in training and in evaluation, is the mean per target token."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from transformers.trainer_utils import EvalLoopOutput

from sharelora.data.token_rows import IGNORED
from sharelora.models.head import output_head
from sharelora.trainer.exact_state import random_state, set_random_state
from sharelora.trainer.token_loss import (
    TokenLoss,
    UnknownHeadError,
    logits_losses,
    mean_per_target,
    obstacle,
    sums_by_row,
)
from sharelora.trainer.trainer import AdapterTrainer

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ShareTrainer(AdapterTrainer):
    """The Trainer with a loss per token, which needs no logits where the model's head allows it.

    Attributes:
        own: the model, before an engine wraps it.
        token_loss: makes the losses without logits; None where all logits are needed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._nll = torch.zeros(2, dtype=torch.float64)
        self.token_loss: TokenLoss | None = None
        self.own = cast(Any, self.model)
        reason = obstacle(self.own)
        if reason is None or self.args.label_smoothing_factor:
            self.compute_loss_func = self._mean_loss
        reason = reason or self._needs_logits()
        if reason is None:
            self.token_loss = TokenLoss(self.own)
        else:
            logger.info("the loss is made from all logits, which takes more memory: %s", reason)

    def _needs_logits(self) -> str | None:
        """Return why this run has to make all logits, in words; None if it need not."""
        if self.args.torch_compile:
            return "the model is compiled"
        if self.args.n_gpu > 1:
            return "one process uses several GPUs with copies of the model"
        head = output_head(self.own)
        trained = head is not None and any(p.requires_grad for m in head.modules() for p in m.parameters())
        if (self.is_fsdp_enabled or self.is_deepspeed_enabled) and trained:
            return "the head is trained, and its weight is sharded"
        return None

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the mean loss over the targets of the whole update, as `_mean_loss` makes it."""
        compute = super().compute_loss
        # The Trainer takes the labels out of what it is given.
        return self._without_logits(
            inputs["labels"], lambda: compute(model, dict(inputs), return_outputs, num_items_in_batch)
        )

    def _mean_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        loss = mean_per_target(self._losses(outputs, labels), labels, num_items_in_batch)
        balance = getattr(outputs, "aux_loss", None)
        if balance is None:
            return loss
        # With which a mixture of experts balances them, where it is asked to.
        weight = getattr(self.own.config.get_text_config(), "router_aux_loss_coef", None) or 0.0
        return loss + weight * balance.to(loss.device)

    @property
    def _smoothing(self) -> float:
        return float(self.args.label_smoothing_factor) if self.own.training else 0.0

    def _losses(self, outputs: Any, labels: Tensor) -> Tensor:
        if self.token_loss is not None:
            return self.token_loss.losses(outputs)
        return logits_losses(outputs.logits, labels, self._smoothing)

    def _without_logits(self, labels: Tensor, compute: Callable[[], T]) -> T:
        """Do a forward pass with its losses; once more, with all logits, if the head cannot be taken apart.

        Args:
            labels: (B, T).
            compute: calls the model, then `_losses`.
        """
        if self.token_loss is None:
            return compute()
        before = None if self.token_loss.known else random_state()
        try:
            with self.token_loss.watching(labels, self._smoothing):
                return compute()
        except UnknownHeadError as error:
            logger.info("the loss is made from all logits, which takes more memory: of this model, %s", error)
            self.token_loss = None
        if before is not None:
            set_random_state(before)
        return compute()

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, None, None]:
        """Add up the loss and the number of target tokens, row by row, so that padding rows of DDP can be dropped."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = self._without_logits(labels, lambda: self._losses(model(**inputs), labels))
        rows = torch.stack([sums_by_row(losses, labels), (labels[:, 1:] != IGNORED).sum(1).to(losses.device)], 1)
        total = self.accelerator.gather_for_metrics(rows).double().sum(0).cpu()
        self._nll += total
        return (total[0] / total[1].clamp(min=1)).float().to(self.args.device), None, None

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as the Trainer does, but report the loss per target token of the whole split.

        The Trainer's mean over batches changes with the batch size and with the order of the rows.
        """
        self._nll.zero_()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        nll, tokens = self._nll.tolist()
        measured = {"loss": nll / max(tokens, 1), "tokens": int(tokens)}
        metrics = {
            **(output.metrics or {}),
            **{f"{metric_key_prefix}_{name}": value for name, value in measured.items()},
        }
        return output._replace(metrics=metrics)
