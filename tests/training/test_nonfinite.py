"""Losses and gradients that are no finite numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_llama import Job
from torch import Tensor, nn

from sharelora.support.errors import UserError
from sharelora.trainer.checkpoints import find
from sharelora.trainer.guards import IN_A_ROW, Mode, NonFinite
from sharelora.training.trainer import ShareTrainer

NAN, INF = float("nan"), float("inf")
SETTINGS, STATE = SimpleNamespace(fp16=False), SimpleNamespace(global_step=6)


def guard(mode: Mode = "stop") -> NonFinite:
    return NonFinite(mode, lambda: range(40), lambda: Path("runs/checkpoint-4"))


def judge(found: NonFinite, losses: list[float], norm: float, scaled: bool = False) -> nn.Module:
    """One update with these losses and this gradient norm; returns the model that the optimizer gets."""
    model = nn.Linear(2, 1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for loss in losses:
        found.see_loss(torch.tensor(loss), torch.zeros(()))
    found.see_gradient(torch.tensor(norm), scaled)
    found.on_pre_optimizer_step(SETTINGS, STATE, None, model)
    return model


@pytest.mark.parametrize(
    ("losses", "norm", "what"),
    [
        ([1.0, NAN], 1.0, "loss is nan"),
        ([INF, 1.0], 1.0, "loss is inf"),
        ([1.0], NAN, "gradient is nan"),
        ([1.0], INF, "gradient is inf"),
    ],
)
def test_the_run_stops_and_says_where(losses: list[float], norm: float, what: str) -> None:
    with pytest.raises(
        UserError, match=rf"{what} at update 7, on rows 0, 1, .*15 and 24 more.*checkpoint-4.*on_nan skip"
    ):
        judge(guard(), losses, norm)


def test_an_update_can_be_left_out() -> None:
    found = guard("skip")
    assert all(parameter.grad is None for parameter in judge(found, [NAN], 1.0).parameters())
    assert found.clear() and not found.clear() and found.skipped == 1
    # The next update begins with a clean slate.
    assert all(parameter.grad is not None for parameter in judge(found, [1.0], 1.0).parameters())
    assert not found.clear() and found.skipped == 1


def test_a_scaler_looks_after_gradients_that_overflow() -> None:
    judge(guard(), [1.0], INF, scaled=True)
    with pytest.raises(UserError, match="loss is nan"):
        judge(guard(), [NAN], 1.0, scaled=True)


def test_a_run_that_only_skips_stops() -> None:
    found = guard("skip")
    for _ in range(IN_A_ROW):
        judge(found, [NAN], 1.0)
    with pytest.raises(UserError, match=f"the {IN_A_ROW} updates before it were left out"):
        judge(found, [NAN], 1.0)


Poison = Callable[[Tensor], Any]


def bad_gradient(loss: Tensor) -> Tensor:
    """A finite loss whose gradient is none."""
    loss.register_hook(lambda gradient: gradient * NAN)
    return loss


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Poison], dict[str, Any]]:
    """Spoil the second batch of an update; returns what is known about that update once the run has ended."""

    def spoil(step: int, poison: Poison) -> dict[str, Any]:
        own, known = ShareTrainer.compute_loss, {"texts": [], "after": None}

        def compute_loss(self: Any, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
            loss = own(self, model, inputs, *args, **kwargs)
            weights = [p.detach().clone() for p in model.parameters() if p.requires_grad]
            if self.state.global_step == step and model.training:
                known["data"], known["before"] = self.train_dataset, weights
                masks = inputs["attention_mask"].bool()
                known["texts"] += [row[mask].tolist() for row, mask in zip(inputs["input_ids"], masks, strict=True)]
                return poison(loss) if len(known["texts"]) > len(inputs["labels"]) else loss
            if self.state.global_step == step + 1 and known["after"] is None:
                known["after"] = weights
            return loss

        monkeypatch.setattr(ShareTrainer, "compute_loss", compute_loss)
        return known

    return spoil


MORE = "--max_steps 6 --save_steps 2 --gradient_accumulation_steps 2 --max_train_samples 24 --logging_steps 1".split()


@pytest.mark.parametrize(("order", "poison"), [("random", lambda loss: loss * NAN), ("group_by_length", bad_gradient)])
def test_the_rows_and_the_last_checkpoint_are_named(
    job: Job, poisoned: Callable[[int, Poison], dict[str, Any]], tmp_path: Path, order: str, poison: Poison
) -> None:
    known = poisoned(4, poison)  # in the second epoch
    with pytest.raises(UserError, match=r"at update 5, on rows ") as caught:
        job(*MORE, "--train_sampling_strategy", order)
    message = str(caught.value)
    assert f"last good checkpoint is {tmp_path}/out/checkpoint-4" in message
    rows = re.search(r"on rows ([\d, ]+) of", message)
    assert rows is not None
    texts = [torch.as_tensor(known["data"][int(row)]["input_ids"]).tolist() for row in rows[1].split(", ")]
    assert sorted(texts) == sorted(known["texts"]) and len(texts) == 8


def test_a_skipped_update_changes_no_weight_and_no_loss(
    job: Job, poisoned: Callable[[int, Poison], dict[str, Any]]
) -> None:
    known = poisoned(3, lambda loss: loss * NAN)
    args = job(*MORE, "--on_nan", "skip", "--logging_steps", "2")
    assert all(torch.equal(a, b) for a, b in zip(known["before"], known["after"], strict=True))
    metrics = json.loads((args.output_dir / "result.json").read_text())["metrics"]
    assert metrics["skipped_updates"] == 1 and metrics["steps"] == 6
    lines = json.loads((args.output_dir / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 3 and losses[0] > losses[1] > losses[2] > losses[0] * 0.7
    assert metrics["train_loss"] == pytest.approx(sum(losses) / 3)


def test_weights_that_are_no_numbers_are_not_written(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss and the gradient of the last update are finite; what the optimizer makes of the weights is not."""
    own = ShareTrainer._maybe_log_save_evaluate

    def overflow(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step == 2:
            next(p for p in self.model.parameters() if p.requires_grad).data[0, 0] = INF
        own(self, *args, **kwargs)

    monkeypatch.setattr(ShareTrainer, "_maybe_log_save_evaluate", overflow)
    with pytest.raises(UserError, match=r"the trained weights, in 1 tensors, first .*; lower --learning_rate"):
        job("--save_steps", "1", "--max_train_samples", "8", "--max_steps", "2")
    out = tmp_path / "out"
    assert [path.name for path in out.glob("*checkpoint*")] == ["checkpoint-1"] and find(
        out
    ).good == out / "checkpoint-1"
    assert not {"completed", "adapter_model", "result.json"} & {path.name for path in out.iterdir()}
