"""The estimate against what a training step really allocates on a CPU, tensor by tensor."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.profiler import ProfilerActivity, profile
from toy_models import checkpoint_layers, llama

from sharelora import ShareLoraConfig
from sharelora.memory import estimate

BATCH, TOKENS = 2, 192
# Not tensors: the interpreter and its libraries, and what the allocator keeps of freed ones.
PROCESS = ("runtime", "freed blocks")


def allocated_peak(step: Any) -> int:
    """The most bytes of tensors that a call allocates beyond those that are there already."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    changes = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("share", ["none", "ab"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_estimate_is_within_a_tenth_of_what_is_allocated(share: str, checkpointing: bool, dtype: str) -> None:
    base = llama(layers=4, hidden=256, num_key_value_heads=4, vocab_size=512, use_cache=False)
    base = base.to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    model = get_peft_model(base, ShareLoraConfig(r=32, share=share, target_modules="all-linear")).train()
    if checkpointing:
        checkpoint_layers(model)
    need = estimate(
        base, model.base_model.plans["default"], 32 if dtype == "fp32" else 16, dtype, BATCH, TOKENS,
        checkpointing=checkpointing,
    )  # fmt: skip
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    ids = torch.randint(2, 512, (BATCH, TOKENS))

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()

    step()
    # The gradients of an earlier part of the batch are there already, as they are where they accumulate.
    tensors = [*model.parameters(), *model.buffers(), *(t for kept in optimizer.state.values() for t in kept.values())]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    found = sum(tensor.nbytes for tensor in tensors) + allocated_peak(step)
    predicted = need.total - sum(item.bytes for item in need.items if item.name in PROCESS)
    assert predicted == pytest.approx(found, rel=0.1)
