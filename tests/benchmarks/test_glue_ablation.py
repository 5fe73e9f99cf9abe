"""The ablation of A's start: what it controls, how likeness is measured, and the whole of it in small."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import RobertaConfig, RobertaForSequenceClassification

from benchmarks.scores import glue_ablation, glue_results
from benchmarks.scores.glue_start import FILE, Start, angle, chance_angle, cosine, similarity
from sharelora import ShareLoraConfig, UserError

LAYERS, WIDTH, RANK = 3, 32, 4


def adapted(share: str = "none") -> Any:
    config = RobertaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=20,
        max_position_embeddings=16,
    )
    lora = ShareLoraConfig(r=RANK, target_modules=["query", "value"], share=share, task_type="SEQ_CLS")
    return get_peft_model(RobertaForSequenceClassification(config), lora)


def matrices(model: Any, side: str) -> dict[str, Any]:
    bank = model.base_model.bank("default")
    return {name: matrix for name, matrix in bank.items() if name.startswith(f"lora_{side}/")}


# The start


def test_the_same_start_is_one_draw_per_kind_of_module(tmp_path: Path) -> None:
    model = adapted()
    Start(str(tmp_path), same=True)(model)
    found = matrices(model, "A")
    assert len(found) == 2 * LAYERS
    for kind in ("query", "value"):
        first, *others = [matrix for name, matrix in found.items() if f"/{kind}/" in name]
        assert all(torch.equal(first, other) for other in others)
    query, value = (next(m for name, m in found.items() if f"/{kind}/" in name) for kind in ("query", "value"))
    assert not torch.equal(query, value)
    # They are still matrices of their own.
    assert len({matrix.data_ptr() for matrix in found.values()}) == 2 * LAYERS


def test_otherwise_every_layer_keeps_its_own_start(tmp_path: Path) -> None:
    model = adapted()
    before = {name: matrix.detach().clone() for name, matrix in matrices(model, "A").items()}
    Start(str(tmp_path))(model)
    assert all(torch.equal(matrix, before[name]) for name, matrix in matrices(model, "A").items())
    assert len({float(matrix.sum().detach()) for matrix in before.values()}) == 2 * LAYERS


@pytest.mark.parametrize("frozen", [False, True])
def test_a_is_trained_unless_it_is_frozen_and_b_always(tmp_path: Path, frozen: bool) -> None:
    model = adapted()
    Start(str(tmp_path), frozen=frozen)(model)
    assert {matrix.requires_grad for matrix in matrices(model, "A").values()} == {not frozen}
    assert {matrix.requires_grad for matrix in matrices(model, "B").values()} == {True}
    model(input_ids=torch.arange(4, 12)[None], labels=torch.tensor([1])).loss.backward()
    assert all((matrix.grad is None) is frozen for matrix in matrices(model, "A").values())
    assert all(matrix.grad is not None and matrix.grad.any() for matrix in matrices(model, "B").values())


def test_dropout_is_switched_off_only_if_asked_for(tmp_path: Path) -> None:
    for wanted, expected in ((None, {0.1}), (0.0, {0.0})):
        model = adapted()
        Start(str(tmp_path), dropout=wanted)(model)
        dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
        assert dropouts and {module.p for module in dropouts} == expected


def test_the_start_is_kept_as_it_was(tmp_path: Path) -> None:
    model = adapted("a")
    Start(str(tmp_path))(model)
    kept = load_file(tmp_path / FILE)
    before = {name: matrix.detach().clone() for name, matrix in matrices(model, "A").items()}
    torch.nn.init.zeros_(next(iter(matrices(model, "A").values())))
    assert kept.keys() == before.keys() and len(kept) == 2
    assert all(torch.equal(kept[name], before[name]) for name in kept)


# Likeness


def test_cosine_and_angle_of_known_matrices() -> None:
    one = torch.eye(4)[:2]
    assert cosine(one, 3 * one) == pytest.approx(1) and cosine(one, -one) == pytest.approx(-1)
    assert math.isnan(cosine(one, 0 * one))
    assert angle(one, torch.tensor([[1.0, 1, 0, 0], [0, 5, 0, 0]])) == pytest.approx(0, abs=1e-4)
    assert angle(one, torch.eye(4)[2:]) == pytest.approx(90)
    # One direction in common, the other turned by 60 degrees.
    turned = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.75**0.5, 0]])
    assert angle(one, turned) == pytest.approx(30)


def test_random_row_spaces_are_nearly_orthogonal_in_a_wide_space() -> None:
    assert 75 < chance_angle(8, 384) < 90
    assert chance_angle(2, 3) < chance_angle(2, 30)


def trained(folder: Path, share: str, change: float, *, same: bool = False) -> Path:
    """A folder as a run leaves it: every A has been moved in one direction, the same for all layers."""
    model = adapted(share)
    Start(str(folder), same=same)(model)
    direction = torch.randn(RANK, WIDTH)
    with torch.no_grad():
        for matrix in matrices(model, "A").values():
            matrix.add_(direction * change * matrix.norm() / direction.norm())
    model.save_pretrained(str(folder / "adapter_model"))
    return folder


def test_a_common_change_shows_in_the_change_and_less_in_the_matrices(tmp_path: Path) -> None:
    found = similarity(trained(tmp_path, "none", change=0.5))
    assert abs(found.start) < 0.3 < 0.99 < found.change
    assert found.start < found.end < found.change
    assert found.moved == pytest.approx(0.5, abs=1e-4)
    assert 0 < found.angle < 90


def test_a_common_start_shows_at_the_start(tmp_path: Path) -> None:
    found = similarity(trained(tmp_path, "none", change=0.5, same=True))
    assert found.start == pytest.approx(1) and found.end == pytest.approx(1)


def test_a_shared_a_equals_itself_and_an_unmoved_one_has_no_change(tmp_path: Path) -> None:
    found = similarity(trained(tmp_path, "a", change=0.0))
    assert (found.start, found.end) == (pytest.approx(1), pytest.approx(1))
    assert found.angle == pytest.approx(0, abs=1e-3) and found.moved == 0
    assert math.isnan(found.change)


def test_a_run_that_kept_no_start_is_named(tmp_path: Path) -> None:
    folder = trained(tmp_path, "none", change=0.1)
    (folder / FILE).unlink()
    with pytest.raises(UserError, match=r"cannot read .*start\.safetensors"):
        similarity(folder)


# The whole in small


@pytest.mark.slow
@pytest.mark.parametrize("program", [glue_results, glue_ablation], ids=["results", "ablation"])
def test_the_whole_runs_in_small_and_goes_on_where_it_was(
    program: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHARELORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHARELORA_TINY_STEPS", "2")
    output = tmp_path / "runs"
    flags = ["--quick", "--seeds", "2", "--tasks", "stsb", "--jobs", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", *flags])
    program.main()
    (document,) = (output / "quick").glob("*.md")
    text = document.read_text()
    # A dash followed by a space stands for what is missing.
    assert "STS-B (Pearson)" in text and "| - " not in text.partition("## How alike")[0]
    capsys.readouterr()
    program.main()
    assert "] main/" not in capsys.readouterr().out
