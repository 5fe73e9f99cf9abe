"""Packed examples give the loss and the logits that they give alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sharelora.data import PackedRows, TokenRows, TrainCollator, check_isolation
from sharelora.data.packing import best_fit
from sharelora.support.errors import UserError

VOCABULARY = 64


def llama(attention: str) -> torch.nn.Module:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).eval()


def gpt2(attention: str) -> torch.nn.Module:
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, attn_implementation=attention)).eval()


def rows(train_on_source: bool = False, count: int = 11) -> TokenRows:
    generator = torch.Generator().manual_seed(1)

    def tokens(most: int, least: int) -> list[int]:
        length = int(torch.randint(least, most, (1,), generator=generator))
        return torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()

    return TokenRows([tokens(9, 0) for _ in range(count)], [tokens(7, 1) for _ in range(count)], train_on_source)


def losses(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[float, int]:
    """Sum of the loss over tokens, and how many tokens count."""
    labels = batch.pop("labels")
    logits = model(**batch).logits
    total = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, VOCABULARY), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum"
    )
    return total.item(), int((labels != -100).sum())


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("train_on_source", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_packed_loss_is_the_unpacked_loss(make: Any, attention: str, train_on_source: bool, flat: bool) -> None:
    model, data = make(attention), rows(train_on_source)
    packed = PackedRows(data, 30)
    assert len(packed) < len(data)
    whole = losses(model, TrainCollator(0, flat)([packed[index] for index in range(len(packed))]))
    alone = [losses(model, TrainCollator(0)([data[index]])) for index in range(len(data))]
    assert whole[1] == sum(tokens for _, tokens in alone)
    assert whole[0] == pytest.approx(sum(loss for loss, _ in alone), rel=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_logits_are_the_unpacked_logits(attention: str) -> None:
    model, data = llama(attention), rows()
    packed = PackedRows(data, 30)
    batch = TrainCollator(0)([packed[index] for index in range(len(packed))])
    batch.pop("labels")
    logits = model(**batch).logits
    seen = []
    for index, members in enumerate(packed.bins):
        start = 0
        for member in members:
            alone = model(data.ids(member)[None]).logits[0]
            torch.testing.assert_close(logits[index, start : start + len(alone)], alone, rtol=1e-5, atol=1e-5)
            start += len(alone)
            seen.append(member)
    assert sorted(seen) == list(range(len(data)))


def test_without_the_cache_switched_off_examples_would_see_each_other() -> None:
    """Why the collator passes `use_cache=False`: with a cache, transformers makes no mask from the positions."""
    model, data = llama("sdpa"), rows()
    batch = TrainCollator(0)([PackedRows(data, 30)[0]])
    apart = losses(model, dict(batch))[0]
    assert losses(model, {**batch, "use_cache": True})[0] != pytest.approx(apart, rel=1e-4)


def test_no_example_is_predicted_from_another() -> None:
    packed = PackedRows(rows(train_on_source=True), 30)
    for index in range(len(packed)):
        item = packed[index]
        starts = item["position_ids"] == 0
        assert starts.sum() == len(packed.bins[index])
        assert (item["labels"][starts] == -100).all() and (item["labels"][~starts] != -100).all()


@given(st.lists(st.integers(1, 20), max_size=40), st.integers(20, 50))
def test_bins_hold_everything_once_and_no_two_could_be_one(lengths: list[int], capacity: int) -> None:
    bins = best_fit(lengths, capacity)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    sums = sorted(sum(lengths[index] for index in members) for members in bins)
    assert all(total <= capacity for total in sums)
    assert len(sums) < 2 or sums[0] + sums[1] > capacity
    assert bins == best_fit(lengths, capacity)


def test_best_fit_fills_the_fullest_bin_first() -> None:
    assert best_fit([5, 7, 3, 5], 10) == [[1, 2], [0, 3]]


def test_a_row_longer_than_a_pack_is_refused() -> None:
    with pytest.raises(UserError, match="found pack_len 8 but a row of 9 tokens; need at least 9; raise --pack_len"):
        PackedRows(TokenRows([[1] * 5], [[2] * 4]), 8)


class Mixing(torch.nn.Module):
    """A model whose attention knows nothing of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = llama("sdpa")

    def forward(self, input_ids: torch.Tensor, **ignored: Any) -> Any:
        return self.inner(input_ids)


def test_a_model_that_mixes_examples_is_refused() -> None:
    with pytest.raises(UserError, match="lets packed examples see each other"):
        check_isolation(Mixing(), VOCABULARY)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_model_that_keeps_examples_apart_passes_in_its_own_mode(make: Any) -> None:
    model = make("sdpa").train()
    check_isolation(model, VOCABULARY, batch=2)
    assert model.training
