"""Models spread over devices: the bank is in one place, and autograd takes it wherever a layer is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import PeftModel
from pretend_device import Placed, PretendDevices, place
from torch import Tensor, nn
from toy_models import QKV, adapted, bank, gradients, language_batch, llama, logits, shake

from sharelora.tuner import layer as share_layers

WIDTH = 16


class Block(nn.Module):
    """A layer with siblings, a map of its own, and a residual."""

    home = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.o_proj(torch.tanh(self.q_proj(x)) * self.k_proj(x) + self.v_proj(x))


class Spread(nn.Module):
    """Blocks, each on its own device; the input is brought to it, as accelerate does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x.to(block.home))
        return x


def devices(model: nn.Module) -> list[str]:
    return [str(block.o_proj.base_layer.weight.device) for block in model.base_model.model.layers]


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    y = model(x)
    (y * y).mean().to("cpu").backward()
    found = {name: value.grad for name, value in bank(model).items()}
    return {name: getattr(value, "value", value) for name, value in found.items()} | {"y": getattr(y, "value", y)}


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The fast path is for plain tensors only; here these are the pretended ones.
    monkeypatch.setattr(share_layers, "Tensor", Placed)
    # Without this `module.to` writes a pretended tensor into the shell of a plain one.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with PretendDevices():
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


MODES: list[dict[str, Any]] = [
    {"share": "none"},
    {"share": "a"},
    {"share": "ab", "share_across": "both"},
    {"share": "a", "use_dora": True},
]


@pytest.mark.parametrize("settings", MODES, ids=str)
def test_a_shared_matrix_serves_layers_on_several_devices(pretend: None, settings: dict[str, Any]) -> None:
    targets = {"target_modules": [*QKV, "o_proj"], **settings}
    x = torch.randn(3, 5, WIDTH)
    expected = step(shake(adapted(Spread(), **targets)), x)
    base = Spread()
    for i, block in enumerate(base.layers):
        block.home = f"cpu:{1 + i // 2}"
        place(block, block.home)
    model = shake(adapted(base, **targets))
    assert devices(model) == ["cpu:1", "cpu:1", "cpu:2", "cpu:2"]
    if settings["share"] != "none":
        # The first user decides where a matrix lives.
        assert {str(value.device) for name, value in bank(model).items() if "lora_A" in name} == {"cpu:1"}
    found = step(model, Placed(x, "cpu:1"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)
    last = model.base_model.model.layers[3].o_proj.base_layer
    assert share_layers._dense_base(last, torch.device("cpu:2")) is not None
    for value in bank(model).values():
        assert value.grad.device == value.device


def test_pretended_devices_do_not_mix(pretend: None) -> None:
    """The oracle of the test above can fail: the same without moving raises."""
    with pytest.raises(RuntimeError, match="got tensors on"):
        Placed(torch.ones(3), "cpu:1") * Placed(torch.ones(3), "cpu:2")
    with pytest.raises(RuntimeError, match="got tensors on"):
        Placed(torch.ones(3, 4), "cpu:1") @ torch.ones(4)


@pytest.mark.parametrize("settings", MODES[:3], ids=str)
def test_offloaded_layers_run_where_their_input_is(pretend: None, settings: dict[str, Any]) -> None:
    """The bank is on one device, the weights come from the meta device to another one for the forward only."""
    targets = {"target_modules": [*QKV, "o_proj"], **settings}
    x = torch.randn(3, 5, WIDTH)
    expected = step(shake(adapted(Spread(), **targets)), x)
    base = Spread()
    place(base, "cpu:1")
    for i, block in enumerate(base.layers):
        block.home = f"cpu:{1 + i // 2}"
    model = shake(adapted(base, **targets))
    for layer in model.base_model.model.layers[2:].modules():
        if type(layer) is nn.Linear:
            weight, bias = (Placed(p.value, "cpu:2") for p in (layer.weight.data, layer.bias.data))
            layer.forward = lambda y, w=weight, b=bias: nn.functional.linear(y, w, b)
            layer.weight = nn.Parameter(torch.empty(layer.weight.shape, device="meta"), requires_grad=False)
    found = step(model, Placed(x, "cpu:1"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)


def test_an_offloaded_base_brings_its_weights_itself() -> None:
    """Accelerate keeps the weights on the meta device outside of a layer's forward."""
    model = shake(adapted(llama(), share="a", target_modules="all-linear"))
    expected, (loss, grads) = logits(model), gradients(model, language_batch())
    cpu_offload(model.base_model.model, execution_device=torch.device("cpu"))
    assert model.base_model.model.model.layers[1].mlp.up_proj.base_layer.weight.is_meta
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)
    again, found = gradients(model, language_batch())
    torch.testing.assert_close(again, loss)
    for name, value in grads.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)


def test_everything_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        base = llama()
    model = adapted(base, share="ab", target_modules="all-linear", lora_dropout=0.1)
    assert {value.device.type for value in bank(model).values()} == {"meta"}
    ids = torch.ones(2, 5, dtype=torch.long, device="meta")
    model(input_ids=ids, labels=ids).loss.backward()
    assert {value.grad.device.type for value in bank(model).values()} == {"meta"}


def test_a_meta_base_takes_an_adapter_from_a_file(tmp_path: Any) -> None:
    model = shake(adapted(llama(), share="ab"))
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        base = llama()
    again = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=True)
    assert again.base_model.plans["default"].hash == model.base_model.plans["default"].hash
    assert all(torch.equal(bank(again)[name], value) for name, value in bank(model).items())
