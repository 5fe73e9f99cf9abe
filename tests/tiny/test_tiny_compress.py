"""A LoRA that was really tuned keeps what it learned when it is compressed, and learns on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from test_tiny_learns import BATCH, accuracy, batch

from sharelora import SharingRule
from sharelora.convert import RankSelection, compress
from sharelora.models.load import load_base, load_tokenizer
from sharelora.tiny import ensure_tiny, tiny_data

STEPS, MORE_STEPS = 100, 20


def tune(model: Any, tokenizer: Any, rows: list[dict[str, str]], steps: int) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)
    model.train()
    for step in range(steps):
        model(**batch(tokenizer, rows[step * BATCH : (step + 1) * BATCH])).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@torch.no_grad()
def loss(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> float:
    return float(model.eval()(**batch(tokenizer, rows)).loss)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_really_tuned_adapter_keeps_its_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, data = str(ensure_tiny("llama", tmp_path)), tiny_data(tmp_path)
    tokenizer = load_tokenizer(base)
    rows = [json.loads(line) for line in (data / "alpaca" / "alpaca_data.jsonl").read_text().splitlines()]
    held_out, more = rows[-128:], rows[STEPS * BATCH :]
    untuned = loss(load_base(base, dtype="fp32"), tokenizer, held_out)
    model = get_peft_model(load_base(base, dtype="fp32"), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    tune(model, tokenizer, rows, STEPS)
    tuned = loss(model, tokenizer, held_out)
    model.save_pretrained(str(tmp_path / "lora"))
    lines = [f"untuned {untuned:.3f}, LoRA {tuned:.3f} {accuracy(model, tokenizer, data, 0):.3f}"]
    for name, share, size in (
        ("same", "a", RankSelection(energy=1.0)),
        ("auto", "a", RankSelection()),
        ("half", "a", RankSelection(rank=8)),
    ):
        done = compress(tmp_path / "lora", tmp_path / name, SharingRule(share), size, base)
        shared = PeftModel.from_pretrained(load_base(base, dtype="fp32"), str(tmp_path / name), is_trainable=True)
        at_once, right = loss(shared, tokenizer, held_out), accuracy(shared, tokenizer, data, 0)
        tune(shared, tokenizer, more, MORE_STEPS)
        later, right_later = loss(shared, tokenizer, held_out), accuracy(shared, tokenizer, data, 0)
        lines.append(
            f"{name}: {done.plan.num_parameters:,} of {done.elements_before:,} elements, error {done.relative:.3f}: "
            f"{at_once:.3f} {right:.3f}, tuned on {later:.3f} {right_later:.3f}"
        )
        if name == "same":
            assert at_once == pytest.approx(tuned, rel=1e-3)
        if name == "auto":
            assert at_once - tuned < 0.1 * (untuned - tuned) and done.relative < 0.11
        assert later < at_once + 0.02 and later - tuned < 0.2 * (untuned - tuned)
    with capsys.disabled():
        print("\n" + "\n".join(lines))
