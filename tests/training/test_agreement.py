"""What processes that train together have in common."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sharelora.support.errors import UserError
from sharelora.trainer.guards import digest, require_agreement, require_same_start


def test_a_fingerprint_tells_every_bit_of_what_is_trained() -> None:
    model = nn.Linear(3, 2, dtype=torch.bfloat16)
    model.bias.requires_grad_(False)
    before = digest(model)
    with torch.no_grad():
        model.bias += 1
    assert digest(model) == before
    with torch.no_grad():
        model.weight[1, 2].view(torch.int16).bitwise_xor_(1)
    assert digest(model) != before


def test_processes_that_hold_other_weights_are_named() -> None:
    require_agreement(["a", "a"], 7, None)
    with pytest.raises(
        UserError, match=r"after update 7 process 1, 3 of 4 .*; need .* checkpoint is none; start again"
    ):
        require_agreement(["a", "b", "a", "c"], 7, None)


def test_processes_that_start_from_different_places_are_named() -> None:
    require_same_start([None, None])
    require_same_start(["x", "x"])
    with pytest.raises(UserError, match=r"process 0 resumes from x and process 2 from nothing; need .*share"):
        require_same_start(["x", "x", None])
