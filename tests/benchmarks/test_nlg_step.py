"""The measurement of a training step on GPT-2 shapes: what is compared, what becomes of the times."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness import machine
from benchmarks.speed import nlg_step, timing, variants
from benchmarks.speed.decoders import describe, prepare, rows
from benchmarks.speed.steps import DecoderCell
from sharelora import UserError

CPU = torch.device("cpu")
SMALL = DecoderCell(hidden=64, layers=2, rank=2, batch=2, tokens=8, vocab=32)
FLAGS = ["--hidden", "64", "--layers", "2", "--rank", "2", "--batch", "2", "--tokens", "8", "--vocab", "32"]
FLAGS += ["--dropout", "0", "--rounds", "2", "--threads", "1"]


def given(*flags: str) -> argparse.Namespace:
    return nlg_step.arguments([*FLAGS, *flags])


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that nobody else uses."""
    monkeypatch.setattr(machine, "others_now", lambda: 0.0)


def test_all_variants_train_on_the_very_same_frozen_weights_and_get_gradients() -> None:
    steps = prepare(SMALL, list(nlg_step.VARIANTS), CPU)
    weights = [{p.data_ptr() for p in step.model.parameters() if not p.requires_grad} for step in steps.values()]
    assert all(found == weights[0] for found in weights[1:])
    for name, step in steps.items():
        assert step.forward_backward() > 0
        assert all(p.grad is not None and p.grad.any() for p in step.parameters), name
        assert bool(step.parameters) == (name != "floor")


def test_the_variants_have_as_many_parameters_as_their_names_say() -> None:
    found = prepare(SMALL, list(nlg_step.VARIANTS), CPU)
    counts = {name: sum(p.numel() for p in step.parameters) for name, step in found.items()}
    # Two layers with a pair of 2 x 64 and 64 x 2 each for query and for value.
    assert counts["loralib"] == counts["none"] == 2 * 2 * (128 + 128)
    assert counts["a"] == counts["b"] == 2 * 128 + 2 * 2 * 128
    assert counts["ab"] == 2 * (128 + 128)
    # One pair for query, key and value together.
    assert counts["peft"] == 2 * (128 + 2 * 192)
    assert counts["floor"] == 0


def test_ours_and_loralibs_compute_the_same() -> None:
    steps = prepare(SMALL, ["none", "loralib"], CPU)
    ours: dict[str, Any] = dict(steps["none"].model.named_parameters())
    theirs: dict[str, Any] = dict(steps["loralib"].model.named_parameters())
    with torch.no_grad():
        for layer, side in itertools.product(range(2), "AB"):
            found = sorted(name for name in ours if f"lora_{side}/" in name and f"]/{layer}/" in name)
            assert len(found) == 2
            value = torch.cat([ours[name] for name in found])
            theirs[f"transformer.h.{layer}.attn.c_attn.lora_{side}"].copy_(value)
    losses = [step.forward_backward() for step in steps.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_loss_is_on_the_second_half_of_a_row() -> None:
    batch = rows(SMALL, CPU)
    assert batch["inputs_embeds"].shape == (2, 8, 64) and batch["inputs_embeds"].requires_grad
    assert (batch["labels"][:, :4] == -100).all() and (batch["labels"][:, 4:] >= 0).all()


def sample(seconds: float) -> timing.Sample:
    return timing.Sample(0.75 * seconds, 0.25 * seconds)


def test_tokens_per_second_and_ratios_are_of_whole_steps() -> None:
    samples = {
        "loralib": [sample(3.0), sample(6.0)],
        "a": [sample(1.0), sample(2.0)],
        "floor": [sample(0.5), sample(1)],
    }
    found = describe("a", samples, SMALL)
    assert found["tokens_per_second"] == pytest.approx(2 * 8 / 1.5)
    assert found["faster_than"]["loralib"]["median"] == pytest.approx(3) and "peft" not in found["faster_than"]
    assert found["to_floor"]["median"] == pytest.approx(2)


def measured(tokens: int, ours: float, loralib: float) -> dict[str, Any]:
    cell = DecoderCell(tokens=tokens).data()
    return {
        "cell": cell,
        "variants": {
            "loralib": {"step": {"median": loralib}, "faster_than": {"loralib": {"median": 1.0}}},
            "a": {"step": {"median": ours}, "faster_than": {"loralib": {"median": loralib / ours}}},
        },
    }


def test_the_goal_and_what_rows_cost_as_the_jobs_fill_them() -> None:
    result = {"cells": [measured(96, 1.0, 1.6), measured(512, 6.0, 7.0)]}
    lines = nlg_step.goals(result)
    assert lines[0].startswith("- met: a, 96 tokens") and lines[1].startswith("- MISSED: a, 512 tokens")
    floor = {"faster_than": {"loralib": {"median": 1.8}}}
    result["cells"][0]["variants"]["floor"] = floor
    assert "the frozen floor itself is 1.80x faster than loralib" in nlg_step.goals(result)[0]
    assert nlg_step.recipe(result) == ["- a, dropout 0: 7.0x the rows per second, 96 tokens a row against 512"]
    assert nlg_step.recipe({"cells": result["cells"][:1]}) == []


@pytest.mark.usefixtures("quiet")
def test_a_measurement_becomes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [*FLAGS, "--tokens", "8,16", "--variants", "floor,loralib,a", "--rounds", "1", "--save", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["nlg_step.py", *flags])
    nlg_step.main()
    (file,) = tmp_path.glob("nlg_step-*.json")
    result = json.loads(file.read_text())
    assert [row["cell"]["tokens"] for row in result["cells"]] == [8, 16]
    assert list(result["cells"][0]["variants"]) == ["floor", "loralib", "a"]
    text = file.with_suffix(".md").read_text()
    assert "2 x 16 tokens" in text and "than loralib" in text and "As the jobs fill their rows" in text


def test_the_default_is_gpt2_small_in_both_lengths() -> None:
    found = nlg_step.cells(nlg_step.arguments([]))
    assert [(cell.tokens, cell.dropout) for cell in found] == [(96, 0), (96, 0.1), (512, 0), (512, 0.1)]
    assert {(cell.hidden, cell.layers, cell.vocab, cell.rank, cell.batch) for cell in found} == {(768, 12, 50257, 4, 8)}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--hidden", "100"), "found hidden 100.*need a hidden size that 64 divides"),
        (("--tokens", "1"), "at least 2 tokens"),
        (("--tokens", "a"), "found --tokens 'a', which is not a list of numbers"),
        (("--dropout", "1"), "need a probability"),
        (("--variants", "lora"), "no variant 'lora'"),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_bad_input_is_named(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nlg_step.measure(given(*flags))


def test_loralib_can_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants.importlib.util, "find_spec", lambda name: None)
    assert "loralib" not in variants.choose(None, "fp32", nlg_step.VARIANTS)
