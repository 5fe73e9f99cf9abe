"""The measurement of what an adapter costs where a model reads: the work is the engines', and ratios become goals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.harness import machine
from benchmarks.speed import prompts, reading
from benchmarks.speed.bases import build_base, stack_config, twin

FLAGS = ["--hidden", "64", "--layers", "2", "--rank", "2", "--vocab", "64", "--prefix", "6", "--tokens", "4"]
TEXTS = reading.Texts.draw(64, 6, 2, 4)


@pytest.fixture(scope="module")
def base() -> Any:
    torch.manual_seed(0)
    return build_base(stack_config(64, 2), torch.device("cpu"), torch.float32)


def test_texts_are_below_the_vocabulary_and_the_same_for_all() -> None:
    assert TEXTS == reading.Texts.draw(64, 6, 2, 4) != reading.Texts.draw(64, 6, 2, 4, seed=1)
    assert [len(prompt) for prompt in TEXTS.prompts] == [4, 5] and max(map(max, TEXTS.prompts)) < 64


@pytest.mark.parametrize("work", list(reading.WORK))
def test_an_adapter_takes_part_in_every_work(base: Any, work: str) -> None:
    model, calls = reading.adapted(twin(base), "a", 2), []
    layer = next(module for module in model.modules() if hasattr(module, "lora_A"))
    layer.register_forward_hook(lambda *_: calls.append(1))
    assert reading.Reading(model, work, TEXTS).sample().step > 0 and calls


def test_the_report_says_what_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "others_now", lambda: 0.0)
    flags = ["--variants", "floor,a", "--dtype", "fp32", "--work", "first", "--rounds", "1", "--threads", "1"]
    result = prompts.measure(prompts.arguments([*FLAGS, *flags]))
    (cell,) = result["cells"]
    cell["variants"]["a"]["to_floor"]["median"] = 1.06
    assert "MISSED: random, vocabulary 64, fp32, first, a: 1.060x (at most 1.05)" in prompts.markdown(result)
    cell["variants"]["a"]["to_floor"]["median"] = 1.05
    assert prompts.goals(result)[0].startswith("met: ")
