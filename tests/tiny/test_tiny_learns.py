"""The real tiny model: the base guesses, tuning with LoRA teaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sharelora.data.formats import FORMATS
from sharelora.data.mmlu import load_mmlu
from sharelora.data.questions import LETTERS, PROMPTS, examples_for
from sharelora.evaluation.multiple_choice import score
from sharelora.evaluation.tokens import Item
from sharelora.models.load import load_base, load_tokenizer
from sharelora.tiny import ensure_tiny, tiny_data

BATCH, TUNING_STEPS = 16, 150


def accuracy(model: Any, tokenizer: Any, data: Path, shots: int) -> float:
    dev, questions, prompt = load_mmlu("dev", data), load_mmlu("val", data), PROMPTS["qlora"]
    answers = tuple(f" {letter}" for letter in LETTERS[:4])
    items = [
        Item(prompt.prefix(q.subject, examples_for(dev, q.subject, shots)), prompt.item(q), answers, q.subject)
        for q in questions
    ]
    choices = score(model, tokenizer, items).choices
    right = [LETTERS[choice.prediction] == q.answer for choice, q in zip(choices, questions, strict=True)]
    return sum(right) / len(right)


def batch(tokenizer: Any, rows: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    prompts = [[0, *tokenizer.encode(FORMATS["alpaca"][0].prompt(r), add_special_tokens=False)] for r in rows]
    answers = [[*tokenizer.encode(r["output"], add_special_tokens=False), 1] for r in rows]
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids, labels = torch.full((len(rows), longest), 2), torch.full((len(rows), longest), -100)
    for row, (p, a) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(p) + len(a)] = torch.tensor(p + a)
        labels[row, len(p) : len(p) + len(a)] = torch.tensor(a)
    return {"input_ids": ids, "attention_mask": (ids != 2).long(), "labels": labels}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tuning_teaches_what_the_base_cannot_do(tmp_path: Path) -> None:
    folder, data = str(ensure_tiny("llama", tmp_path)), tiny_data(tmp_path)
    tokenizer = load_tokenizer(folder)
    model: Any = load_base(folder, dtype="fp32")
    assert all(0.15 <= accuracy(model, tokenizer, data, shots) <= 0.35 for shots in (0, 5))
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    rows = [json.loads(line) for line in (data / "alpaca" / "alpaca_data.jsonl").read_text().splitlines()]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)
    model.train()
    for step in range(TUNING_STEPS):
        model(**batch(tokenizer, rows[step * BATCH : (step + 1) * BATCH])).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
        optimizer.zero_grad()
    assert accuracy(model, tokenizer, data, 0) > 0.6
