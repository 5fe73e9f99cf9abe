"""The measurement of losses: the ways compute the same, on the same weights, and are held to the goals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.harness import machine
from benchmarks.speed import loss, losses
from benchmarks.speed import steps as sizes
from benchmarks.speed.bases import twin
from sharelora import UserError

CPU = torch.device("cpu")
CELL = sizes.LossCell(vocab=64, rows="all", batch=2, tokens=8, rank=2)


@pytest.fixture
def steps() -> dict[str, losses.LossStep]:
    base, batch = losses.load(None, CELL.vocab, small=True, device=CPU), losses.batch_of(CELL, CPU)
    return {name: losses.LossStep(twin(base), name, CELL, batch) for name in ("logits", "none")}


def test_two_losses_of_one_adapter_have_equal_values_and_gradients(steps: dict[str, losses.LossStep]) -> None:
    whole, chunks = (steps[name].forward_backward() for name in ("logits", "none"))
    assert chunks == pytest.approx(whole, rel=1e-3)
    for p, q in zip(steps["logits"].parameters, steps["none"].parameters, strict=True):
        assert p.grad is not None and q.grad is not None
        assert (p.grad - q.grad).norm() < 0.03 * p.grad.norm()  # all is in bf16


def test_rows_of_alpaca_have_their_lengths_and_answers() -> None:
    batch = losses.batch_of(sizes.LossCell(64, "alpaca", 1, 2, 2), CPU)
    assert batch["attention_mask"].sum(1).tolist() == [tokens for tokens, _ in sizes.ALPACA]
    assert (batch["labels"] >= 0).sum(1).tolist() == [answer for _, answer in sizes.ALPACA]
    assert batch["labels"][0, 125] == batch["input_ids"][0, 125] and batch["labels"][0, 126] == -100


def test_a_way_that_cannot_be_had_is_left_out_or_refused_by_name() -> None:
    assert "liger" not in losses.present(list(loss.WAYS), named=False, device="cpu")
    with pytest.raises(UserError, match=r"^liger needs a GPU, which is not here; "):
        losses.present(["liger"], named=True, device="cpu")


def test_goals_are_of_large_vocabularies() -> None:
    ways = {name: {"faster": {"median": value}, "memory": 5} for name, value in (("peft", 1.0), ("none", 1.2))}
    row = {"cell": {**CELL.data(), "vocab": 32000, "rows": "alpaca"}, "ways": ways}
    assert [(goal["what"], goal["met"]) for goal in loss.goals([row])] == [("tokens/s", False), ("peak memory", False)]
    assert not loss.goals([{**row, "cell": CELL.data()}])


def test_a_quick_run_writes_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "others_now", lambda: 0.0)
    flags = ["--quick", "--rows", "all", "--ways", "peft,none", "--vocab", "64", "--tokens", "8", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["loss.py", *flags, "--threads", "1", "--save", str(tmp_path)])
    loss.main()
    (file,) = tmp_path.glob("loss-*.json")
    assert set(json.loads(file.read_text())["cells"][0]["ways"]) == {"peft", "none"}
    assert "vocabulary 64, 2 x 8 tokens" in file.with_suffix(".md").read_text()


def test_a_vocabulary_above_the_models_is_refused(tmp_path: Path) -> None:
    losses.load(None, 64, small=True, device=CPU).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"found --vocab 65; .* has 64; need at most that"):
        losses.load(str(tmp_path), 65, small=False, device=CPU)
    assert losses.load(str(tmp_path), 32, small=False, device=CPU).get_output_embeddings().weight.shape == (32, 64)
