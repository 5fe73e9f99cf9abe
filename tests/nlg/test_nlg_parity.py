"""Fifty updates of the whole job against loralib's MergedLinear and a plain loop, from the same start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from small_gpt2 import Job, rows
from torch import Tensor, nn
from transformers import AutoTokenizer, GPT2LMHeadModel

import sharelora  # noqa: F401
from sharelora import ShareLoraConfig
from sharelora.training.nlg.trainer import UncorrectedAdamW

lora = pytest.importorskip("loralib")

STEPS, BATCH, WARMUP, RATE, SMOOTH = 50, 4, 5, 1e-3, 0.1
RANK, ALPHA = 4, 32


def write_start(base: Path, share: str, folder: Path) -> Path:
    """An adapter whose B is not zero, so that A has a gradient from the first update on."""
    config = ShareLoraConfig(
        r=RANK, lora_alpha=ALPHA, share=share, target_modules=["c_attn"], enable_lora={"c_attn": [True, False, True]},
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(GPT2LMHeadModel.from_pretrained(base), config)
    with torch.no_grad():
        for name, matrix in model.base_model.lora_bank["default"].items():
            if name.startswith("lora_B"):
                matrix.normal_(std=0.02)
    model.save_pretrained(folder)
    return folder


def matrices(folder: Path) -> dict[str, Tensor]:
    """Saved matrices by their names in the plan."""
    return {key.split("lora_bank.")[1]: value for key, value in load_file(folder / "adapter_model.safetensors").items()}


def stacked(found: dict[str, Tensor], side: str, layer: int) -> Tensor:
    """A or B of q and v of a layer as loralib stacks them."""

    def one(part: int) -> Tensor:
        names = [name for name in found if name.startswith(f"lora_{side}/attn/c_attn[{part}]/")]
        own = [name for name in names if name.split("/")[3] in (str(layer), "*")]
        assert len(own) == 1, names
        return found[own[0]]

    return torch.cat([one(0), one(2)])


def with_loralib(base: Path, start: dict[str, Tensor], tied: bool) -> nn.Module:
    """LoRA's model: MergedLinear for c_attn, no dropout; with one A for all layers if they are tied."""
    model = GPT2LMHeadModel.from_pretrained(base, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    for layer, block in enumerate(model.transformer.h):
        old = block.attn.c_attn
        new = lora.MergedLinear(
            *old.weight.shape, r=RANK, lora_alpha=ALPHA, enable_lora=[True, False, True], merge_weights=False
        )
        new.weight.data, new.bias.data = old.weight.data.t().contiguous(), old.bias.data
        new.lora_A.data, new.lora_B.data = stacked(start, "A", layer).clone(), stacked(start, "B", layer).clone()
        block.attn.c_attn = new
        if tied and layer:
            new.lora_A = model.transformer.h[0].attn.c_attn.lora_A
    lora.mark_only_lora_as_trainable(model)
    return model


def batches(tokenizer: Any) -> Iterator[list[tuple[list[int], int]]]:
    """Rows in order, again and again: all tokens, and how many of them are the input and the separator."""
    encoded = []
    for context, text in rows():
        given = [*tokenizer(context)["input_ids"], tokenizer.eos_token_id]
        encoded.append((given + tokenizer(f" {text}")["input_ids"] + [tokenizer.eos_token_id], len(given)))
    while True:
        yield from (encoded[start : start + BATCH] for start in range(0, len(encoded), BATCH))


def batch_loss(model: nn.Module, batch: list[tuple[list[int], int]]) -> Tensor:
    """LoRA's loss, row by row: smoothed, over the text and its end."""
    total, count = torch.zeros(()), 0
    for ids, given in batch:
        log_p = model(torch.tensor([ids])).logits[0, given - 1 : -1].log_softmax(-1)
        target = log_p.gather(1, torch.tensor(ids[given:])[:, None]).sum()
        total = total - (1 - SMOOTH) * target - SMOOTH * log_p.mean(-1).sum()
        count += len(ids) - given
    return total / count


def train(model: nn.Module, tokenizer: Any, correct_bias: bool) -> None:
    """LoRA's loop: linear warm-up from zero and decay to zero, one step of it per update."""
    kind = torch.optim.AdamW if correct_bias else UncorrectedAdamW
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = kind(trained, lr=RATE, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01)
    model.train()
    for step, batch in zip(range(STEPS), batches(tokenizer), strict=False):
        up, down = step / WARMUP, (STEPS - step) / (STEPS - WARMUP)
        optimizer.param_groups[0]["lr"] = RATE * min(up, down)
        optimizer.zero_grad()
        batch_loss(model, batch).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("share", "correct_bias"),
    [
        pytest.param("none", True, marks=pytest.mark.slow),
        ("a", True),
        pytest.param("none", False, marks=pytest.mark.slow),
    ],
)
def test_fifty_updates_equal_loralibs(
    job: Job, gpt2_folder: Path, tmp_path: Path, share: str, correct_bias: bool
) -> None:
    start = write_start(gpt2_folder, share, tmp_path / "start")
    args, metrics = job(
        *("--adapter", str(start), "--do_train", "--train_sampling_strategy", "sequential"),
        *("--share", share, "--lora_dropout", "0", "--correct_bias", str(correct_bias), "--lr", str(RATE)),
        *("--max_step", str(STEPS), "--warmup_step", str(WARMUP), "--save_interval", str(STEPS)),
    )
    before, after = matrices(start), matrices(args.output_dir / "adapter_model")
    theirs = with_loralib(gpt2_folder, before, tied=share == "a")
    train(theirs, AutoTokenizer.from_pretrained(gpt2_folder), correct_bias)
    assert metrics["steps"] == STEPS
    for layer, block in enumerate(theirs.transformer.h):
        for side in "AB":
            expected = getattr(block.attn.c_attn, f"lora_{side}").detach()
            found = stacked(after, side, layer)
            assert (found - stacked(before, side, layer)).abs().max() > 5e-3  # it has been trained
            assert (found - expected).abs().max() < 1e-6
