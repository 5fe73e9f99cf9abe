"""Similarities of layers: equal to the formulas, whatever the batch, padding or model; files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor, nn
from toy_models import gpt2, llama, roberta

from sharelora.layer_groups import Similarity, read_similarity
from sharelora.layer_groups.measure import average, find_layers, last_real, layer_states, reference
from sharelora.layer_groups.show import draw
from sharelora.layer_groups.similarity import shape_of
from sharelora.support.errors import UserError

MODELS = {"llama": llama, "gpt2": gpt2, "roberta": roberta}


def lively(kind: str) -> nn.Module:
    """A model whose layers change what they are given, always the same one."""
    model = MODELS[kind]().eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 2:
                value.normal_(std=0.3)
    return model


def texts(count: int = 7) -> list[list[int]]:
    """Token ids of different lengths."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, 12, (count,), generator=generator).tolist()
    return [torch.randint(2, 48, (length,), generator=generator).tolist() for length in lengths]


def fed(rows: list[list[int]], size: int, left: bool = False) -> Iterator[dict[str, Tensor]]:
    for first in range(0, len(rows), size):
        chunk = rows[first : first + size]
        longest = max(map(len, chunk))
        padded = [[1] * (longest - len(row)) + row if left else row + [1] * (longest - len(row)) for row in chunk]
        mask = [sorted([1] * len(row) + [0] * (longest - len(row)), reverse=not left) for row in chunk]
        yield {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}


def measured(model: nn.Module, rows: list[list[int]], size: int) -> dict[str, Tensor]:
    between, through = average(layer_states(model, fed(rows, size))).results()
    return {
        **{name: torch.tensor(v) for name, v in between.items()},
        **{f"t {n}": torch.tensor(v) for n, v in through.items()},
    }


@pytest.mark.parametrize("kind", MODELS)
def test_any_batch_size_gives_the_same(kind: str) -> None:
    model, rows = lively(kind), texts()
    one = measured(model, rows, 1)
    for size in (2, 3, 7):
        torch.testing.assert_close(measured(model, rows, size), one, atol=2e-6, rtol=0)
    assert float(one["cosine"].min()) < 0.99 and float(one["t cosine"].max()) < 0.99


@pytest.mark.parametrize("kind", MODELS)
def test_the_states_are_those_of_the_last_token(kind: str) -> None:
    model = lively(kind)
    for row in texts(3):
        [(inputs, outputs)] = layer_states(model, fed([row], 1))
        with torch.no_grad():
            hidden = model.base_model(torch.tensor([row]), output_hidden_states=True).hidden_states
        # transformers puts the final norm on the last of them, where there is one.
        for layer in range(len(outputs)):
            torch.testing.assert_close(inputs[layer, 0], hidden[layer][0, -1])
            if layer + 1 < len(outputs):
                torch.testing.assert_close(outputs[layer, 0], hidden[layer + 1][0, -1])


def test_the_means_are_those_of_the_formulas() -> None:
    states = torch.randn(2, 4, 9, 5, generator=torch.Generator().manual_seed(0))
    batches = zip(states[0].split(4, dim=1), states[1].split(4, dim=1), strict=True)
    between, through = average(batches).results()
    slow_between, slow_through = reference(states[0], states[1])
    for name in slow_between:
        torch.testing.assert_close(torch.tensor(between[name]), torch.tensor(slow_between[name]), atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.tensor(through[name]), torch.tensor(slow_through[name]), atol=1e-6, rtol=0)


def test_half_precision_is_raised_before_anything_is_multiplied() -> None:
    model = llama().to(torch.bfloat16).eval()
    [(inputs, outputs)] = layer_states(model, fed(texts(2), 2))
    assert inputs.dtype == outputs.dtype == torch.float32


def test_equal_and_opposite_directions() -> None:
    state = torch.ones(1, 1, 3)
    between, _ = average([(torch.cat([state, state]), torch.cat([state, -2 * state]))]).results()
    assert between == {"cosine": ((1.0, -1.0), (-1.0, 1.0)), "angular": ((1.0, 0.0), (0.0, 1.0))}


@pytest.mark.parametrize("left", [False, True])
def test_the_last_token_is_found_on_both_sides_of_the_padding(left: bool) -> None:
    rows = [[5, 6], [7, 8, 9, 10]]
    [batch] = fed(rows, 2, left)
    at = last_real(batch["attention_mask"])
    assert batch["input_ids"][torch.arange(2), at].tolist() == [6, 10]


def test_weights_may_wait_elsewhere_until_they_are_needed() -> None:
    rows = texts()
    here = measured(lively("llama"), rows, 3)
    model = cpu_offload(lively("llama"), torch.device("cpu"))
    assert {value.device.type for value in model.parameters()} == {"meta"}
    torch.testing.assert_close(measured(model, rows, 3), here)


def test_hooks_are_gone_afterwards_and_layers_are_refused_where_they_are_not_clear() -> None:
    model = llama()
    list(layer_states(model, fed(texts(2), 2)))
    assert not any(layer._forward_hooks for layer in find_layers(model))
    model.other = nn.ModuleList([nn.Linear(1, 1) for _ in range(3)])
    with pytest.raises(UserError, match=r"found 2 lists of 3 layers in LlamaForCausalLM \(model\.layers, other\)"):
        find_layers(model)


def similarity(layers: int = 3, **changes: Any) -> Similarity:
    model = llama(layers)
    between, through = average(layer_states(model.eval(), fed(texts(), 4))).results()
    made = Similarity("toy", shape_of(model.config), "texts.txt", "0f", 7, 512, between, through)
    return replace(made, **changes)


def test_a_file_holds_everything(tmp_path: Path) -> None:
    made = similarity()
    made.write(tmp_path / "similarity.json")
    assert read_similarity(tmp_path / "similarity.json") == made
    made.check(llama().config, "x")


def test_another_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"x is the similarity of toy with hidden_size 32; this model has 64"):
        similarity().check(llama(hidden=64).config, "x")
    with pytest.raises(UserError, match="with num_hidden_layers 3; this model has 4"):
        similarity().check(llama(4).config, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format="other"), "has format 'other'; need 'sharelora-similarity/1'"),
        (lambda data: data.pop("through"), "damaged: it has no through"),
        (lambda data: data["between"].pop("angular"), "damaged: it has no between.angular"),
        (lambda data: data["between"]["cosine"].pop(), "cosine is not 3 by 3"),
        (lambda data: data["between"]["cosine"][0].__setitem__(1, 7), "a value outside -1 to 1"),
        (lambda data: data["between"]["cosine"][0].__setitem__(1, 0.123), "is not symmetric"),
    ],
)
def test_a_damaged_file_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "similarity.json"
    similarity().write(file)
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message):
        read_similarity(file)


def test_the_heat_map_is_the_same_each_time(tmp_path: Path) -> None:
    made = similarity()
    for name in ("one", "two"):
        files = draw(made, tmp_path / name, groups=((0, 1),))
        assert [file.name for file in files] == [f"{name}.svg", f"{name}.png"]
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
