"""The real tiny RoBERTa learns each of the nine tasks by LoRA on query and value, in a few epochs of a few seconds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from sharelora.data.glue import TASKS, GlueCollator, GlueRows, encode, load_glue
from sharelora.metrics.glue import compute
from sharelora.models.load import load_tokenizer
from sharelora.tiny import ensure_tiny, tiny_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BATCH, EPOCHS, RATE = 16, 4, 2e-3
# The least that the first metric must reach; guessing gives 0 for correlations, else one over the number of classes.
LEAST = {
    "cola": 0.4,
    "mnli": 0.5,
    "mrpc": 0.75,
    "qnli": 0.75,
    "qqp": 0.75,
    "rte": 0.6,
    "sst2": 0.9,
    "stsb": 0.35,
    "wnli": 0.75,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    cache = tmp_path_factory.mktemp("cache")
    return str(ensure_tiny("roberta", cache)), tiny_data(cache)


def tuned(base: Any, rows: GlueRows, collate: GlueCollator) -> Any:
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], modules_to_save=["classifier"])
    model: Any = get_peft_model(base, config)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE)
    steps = EPOCHS * (len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for _ in range(EPOCHS):
        order = random.sample(range(len(rows)), len(rows))
        for start in range(0, len(rows) - BATCH + 1, BATCH):
            model(**collate([rows[index] for index in order[start : start + BATCH]])).loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def predictions(model: Any, rows: GlueRows, collate: GlueCollator) -> torch.Tensor:
    logits = torch.cat([model(**collate([rows[index]])).logits for index in range(len(rows))])
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(dim=1)


@pytest.mark.parametrize("name", TASKS)
def test_tuning_teaches_the_task(name: str, made: tuple[str, Path]) -> None:
    folder, data = made
    random.seed(0)
    task, tokenizer = TASKS[name], load_tokenizer(folder)
    found, collate = load_glue(name, data_root=data), GlueCollator(tokenizer.pad_token_id)
    encoded = {split: encode(found.rows(split), task, tokenizer, 128)[0] for split in ("train", *task.dev_splits)}
    base: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=task.num_labels)
    model = tuned(base, encoded["train"], collate)
    for split in task.dev_splits:
        rows = encoded[split]
        assert rows.labels is not None
        score = compute(name, predictions(model, rows, collate).numpy(), rows.labels.numpy())[task.metrics[0]]
        print(f"{name} {split}: {task.metrics[0]} {score:.3f}")
        assert score >= LEAST[name], split
