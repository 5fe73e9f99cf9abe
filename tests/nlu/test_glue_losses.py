"""The loss per example, R-drop's divergence and Cutoff's mask, against their formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sharelora.training.glue.losses import Consistency, divergence, example_losses

LOGITS = torch.tensor([[1.0, -1.0, 0.5], [0.2, 0.1, -3.0], [2.0, 2.0, 2.0], [-1.0, 4.0, 0.0]])
OTHERS = torch.tensor([[0.5, -0.5, 0.5], [0.3, 0.4, -1.0], [1.0, 2.0, 3.0], [-1.0, 4.0, 0.0]])
LABELS = torch.tensor([0, 1, 2, 1])


def test_the_mean_of_example_losses_is_the_usual_loss() -> None:
    torch.testing.assert_close(example_losses(LOGITS, LABELS, False).mean(), F.cross_entropy(LOGITS, LABELS))
    smooth = F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    torch.testing.assert_close(example_losses(LOGITS, LABELS, False, 0.1).mean(), smooth)
    scores, right = torch.tensor([[1.0], [3.5], [0.0]]), torch.tensor([2.0, 3.0, 0.0])
    torch.testing.assert_close(example_losses(scores, right, True), torch.tensor([1.0, 0.25, 0.0]))


def test_the_divergence_is_the_published_formula() -> None:
    """KL(p1 || m) + KL(p2 || m), with m from the mean of the logits; torch's `mean` also divides by the classes."""
    for row in range(len(LOGITS)):
        first, second = (logits[row].softmax(-1).tolist() for logits in (LOGITS, OTHERS))
        middle = ((LOGITS[row] + OTHERS[row]) / 2).softmax(-1).tolist()
        expected = sum(p * math.log(p / m) for own in (first, second) for p, m in zip(own, middle, strict=True)) / len(
            middle
        )
        assert divergence(LOGITS, OTHERS)[row].item() == pytest.approx(expected, abs=1e-6)
    middle_logs = ((LOGITS + OTHERS) / 2).log_softmax(-1)
    upstream = sum(F.kl_div(middle_logs, own.softmax(-1), reduction="none").mean() for own in (LOGITS, OTHERS))
    torch.testing.assert_close(divergence(LOGITS, OTHERS).mean(), upstream)
    assert divergence(LOGITS, OTHERS)[3] == pytest.approx(0, abs=1e-7)


def test_r_drop_adds_both_losses_and_half_the_weighted_divergence() -> None:
    found = Consistency(3.0).losses(LOGITS, OTHERS, LABELS).mean()
    plain = F.cross_entropy(LOGITS, LABELS) + F.cross_entropy(OTHERS, LABELS)
    torch.testing.assert_close(found, plain + 1.5 * divergence(LOGITS, OTHERS).mean())


def test_cutoff_masks_some_tokens_of_the_second_pass_and_no_special_ones() -> None:
    ids = torch.randint(5, 50, (40, 30))
    ids[:, 0], ids[:, 12], ids[:, 13:] = 0, 2, 1
    consistency = Consistency(1.0, 0.25, unknown=3, kept={0, 1, 2})
    batch = consistency.twice({"input_ids": ids, "attention_mask": (ids != 1).long()})
    first, second = batch["input_ids"].chunk(2)
    torch.testing.assert_close(first, ids)
    torch.testing.assert_close(batch["attention_mask"][:40], batch["attention_mask"][40:])
    changed = second != ids
    assert not changed[:, 0].any() and not changed[:, 12:].any() and (second[changed] == 3).all()
    assert changed[:, 1:12].float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert Consistency(1.0).mask(ids) is ids
