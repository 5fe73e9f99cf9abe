"""16 bits means 16 bits."""

from __future__ import annotations

import pytest

from sharelora.support.errors import UserError
from sharelora.trainer.devices import Precision, choose_precision


@pytest.mark.parametrize(
    ("bits", "bf16", "fp16", "expected"),
    [
        (4, False, False, Precision(4, "fp32", None)),
        (4, True, False, Precision(4, "bf16", None)),
        (4, False, True, Precision(4, "fp16", "fp16")),
        (8, True, False, Precision(8, "bf16", None)),
        (16, False, False, Precision(16, "bf16", None)),
        (16, True, False, Precision(16, "bf16", None)),
        (16, False, True, Precision(16, "fp16", "fp16")),
        (32, False, False, Precision(32, "fp32", None)),
        (32, True, False, Precision(32, "fp32", "bf16")),
        (32, False, True, Precision(32, "fp32", "fp16")),
    ],
)
def test_flags_decide_the_precision(bits: int, bf16: bool, fp16: bool, expected: Precision) -> None:
    assert choose_precision(bits, bf16, fp16, full_finetune=False, training=True, on_gpu=True) == expected


@pytest.mark.parametrize(
    ("bits", "bf16", "fp16", "full", "gpu", "message"),
    [
        (16, True, True, False, True, "one of them at most"),
        (4, False, False, True, True, "quantised weights cannot be trained"),
        (16, False, True, False, False, "without a GPU"),
        (16, False, True, True, True, "fp16 weights cannot be trained"),
    ],
)
def test_what_cannot_be_is_refused(bits: int, bf16: bool, fp16: bool, full: bool, gpu: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_precision(bits, bf16, fp16, full, training=True, on_gpu=gpu)


def test_the_choice_is_said() -> None:
    assert str(Precision(4, "bf16", None)) == "4-bit base computing in bf16, fp32 adapters"
    assert str(Precision(32, "fp32", "bf16")) == "fp32 base, fp32 adapters, bf16 autocast"
