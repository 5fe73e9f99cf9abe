"""The Trainer of language models: what its evaluation loss means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.trainer_utils import EvalLoopOutput

from sharelora.data.token_rows import IGNORED
from sharelora.trainer.trainer import AdapterTrainer


class ShareTrainer(AdapterTrainer):
    """The Trainer with a loss per token."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._nll = torch.zeros(2, dtype=torch.float64)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, None, None]:
        """Add up the loss and the number of target tokens, row by row, so that padding rows of DDP can be dropped."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")[:, 1:]
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits[:, :-1]
        # Row by row: the fp32 copy of a whole batch of logits would be the largest thing in memory.
        pairs = zip(logits, labels, strict=True)
        nll = [F.cross_entropy(row.float(), target, ignore_index=IGNORED, reduction="sum") for row, target in pairs]
        rows = torch.stack([torch.stack(nll), (labels != IGNORED).sum(1)], 1)
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
