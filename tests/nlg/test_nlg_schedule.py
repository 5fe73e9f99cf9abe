"""Schedules, optimizer and loss against the formulas of LoRA's script."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import AdamW

from sharelora.trainer.token_loss import logits_losses, mean_per_target
from sharelora.training.nlg.schedule import constant, cosine, cycle, linear, read_cycle
from sharelora.training.nlg.trainer import UncorrectedAdamW


def test_linear_rises_from_zero_and_falls_to_zero() -> None:
    factor = linear(4, 12)
    assert [factor(step) for step in range(14)] == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, 7 / 8, 6 / 8, 5 / 8, 0.5, 3 / 8, 2 / 8, 1 / 8, 0, 0]
    )
    assert [linear(0, 2)(step) for step in range(3)] == [1, 0.5, 0]


def test_constant_has_a_warm_up() -> None:
    assert [constant(2, 9)(step) for step in (0, 1, 2, 8)] == [0, 0.5, 1, 1]


def test_cosine_counts_from_the_first_update() -> None:
    factor = cosine(2, 10)
    assert [factor(step) for step in (0, 1, 2, 5, 10, 12)] == pytest.approx(
        [0, 0.5, 0.5 * (1 + math.cos(0.2 * math.pi)), 0.5, 0, 0]
    )


def test_cycle_goes_straight_between_its_corners() -> None:
    factor = cycle(read_cycle("0,10,20", "0,0.02,0.01"), rate=0.02)
    assert [factor(step) for step in (0, 5, 10, 15, 20, 30)] == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.5])


def upstream_step(p: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, lr: float) -> torch.Tensor:
    """LoRA's AdamW without bias correction, written out; the averages change in place."""
    m.mul_(0.9).add_(0.1 * g)
    v.mul_(0.98).add_(0.02 * g * g)
    moved = p - lr * m / (v.sqrt() + 1e-6)
    return moved - lr * 0.01 * moved


def test_adam_without_correction_is_loras() -> None:
    parameter = torch.nn.Parameter(torch.randn(5, 3))
    expected, mean, square = parameter.detach().clone(), torch.zeros(5, 3), torch.zeros(5, 3)
    optimizer = UncorrectedAdamW([parameter], lr=0.05, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    for _ in range(20):
        parameter.grad = torch.randn(5, 3)
        expected = upstream_step(expected, parameter.grad, mean, square, 0.05)
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-7)


def test_without_correction_the_first_updates_are_larger() -> None:
    moved = []
    for kind in (UncorrectedAdamW, AdamW):
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.ones(1)
        kind([parameter], lr=1.0, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0).step()
        moved.append(abs(parameter.item()))
    assert moved == pytest.approx([0.1 / 0.02**0.5, 1.0], rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_loras(smoothing: float) -> None:
    """(1 - e) of the target's and e of the vocabulary's mean -log p, over the positions that count."""
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[0, :3] = labels[1, 4] = -100
    log_p = logits[:, :-1].log_softmax(-1)
    total, count = 0.0, 0
    for row in range(2):
        for place in range(4):
            target = labels[row, place + 1]
            if target != -100:
                likely = (1 - smoothing) * log_p[row, place, target] + smoothing * log_p[row, place].mean()
                total, count = total - likely.item(), count + 1
    losses = logits_losses(logits, labels, smoothing)
    assert count == len(losses) == 5
    assert mean_per_target(losses, labels, None).item() == pytest.approx(total / count, rel=1e-5)
    assert mean_per_target(losses, labels, torch.tensor(50)).item() == pytest.approx(total / 50, rel=1e-5)
