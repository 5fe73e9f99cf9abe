"""Parameters that no layer holds, such as stacks of experts, are sites; blocks and experts are in the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import BdLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor, nn
from toy_models import adapted, bank, llama

from sharelora import ShareLoraConfig, SharingPlan, UserError
from sharelora.tuner import swap

NAMES = ["experts.up", "experts.down"]


class Experts(nn.Module):
    """Three experts whose weights are stacked, (experts, D_out, D_in)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3, 6, 4)), nn.Parameter(torch.randn(3, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.einsum("bi,eoi->beo", x, self.up).relu()
        return torch.einsum("beo,eio->bi", inner, self.down)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.experts = nn.Linear(4, 4), Experts()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.experts(self.q_proj(x))


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def mixture(share: str = "none", model: nn.Module | None = None, **settings: Any) -> PeftModel:
    common: dict[str, Any] = {"r": 2, "target_modules": ["q_proj"], "target_parameters": NAMES, **settings}
    made = get_peft_model(model or Mixture(), ShareLoraConfig(share=share, **common))
    torch.manual_seed(1)
    for matrix in bank(made).values():
        matrix.data.normal_()
    return made


X = torch.linspace(-1, 1, 12).reshape(3, 4)


def plans(model: PeftModel) -> SharingPlan:
    plan: SharingPlan = model.base_model.plans["default"]
    return plan


@pytest.mark.parametrize("share", ["none", "a", "ab"])
def test_parameters_are_adapted_as_peft_does(share: str, tmp_path: Path) -> None:
    model = mixture(share)
    theirs = get_peft_model(Mixture(), LoraConfig(r=2, target_modules=["q_proj"], target_parameters=NAMES))
    for entry in plans(model).entries:
        parent, _, name = entry.site.path.rpartition(".")
        layer: Any = theirs.base_model.model.get_submodule(entry.site.path if name == "q_proj" else parent)
        while getattr(layer, "parameter_name", name) != name:
            layer = layer.base_layer
        layer.lora_A["default"].weight.data = bank(model)[entry.a].data.clone()
        layer.lora_B["default"].weight.data = bank(model)[entry.b].data.clone()
    torch.testing.assert_close(model(X), theirs(X))
    expected = model(X).detach()
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(Mixture(), tmp_path)
    assert torch.equal(again(X), expected)
    torch.testing.assert_close(again.merge_and_unload()(X), expected, rtol=1e-4, atol=1e-5)


def test_layers_share_the_matrices_of_their_experts() -> None:
    plan = plans(mixture("a"))
    # Three experts of rank 2: A of `up` is (6, 4), for both layers.
    assert plan.matrices["lora_A/experts/up/*/6x4"] == (6, 4)
    assert [site.path for site in plan.users["lora_A/experts/up/*/6x4"]] == [
        "layers.0.experts.up",
        "layers.1.experts.up",
    ]
    assert SharingPlan.from_json(plan.to_json()).hash == plan.hash


def test_shared_matrices_get_the_gradients_of_all_layers() -> None:
    model, own = mixture("a"), mixture("none")
    for entry, twin in zip(plans(model).entries, plans(own).entries, strict=True):
        bank(own)[twin.a].data, bank(own)[twin.b].data = bank(model)[entry.a].data, bank(model)[entry.b].data
    for each in (model, own):
        each(X).square().sum().backward()
    twins = [bank(own)[e.a].grad for e in plans(own).entries if e.site.kind == "experts.up"]
    torch.testing.assert_close(bank(model)["lora_A/experts/up/*/6x4"].grad, twins[0] + twins[1])


def test_a_second_adapter_goes_on_the_same_parameters() -> None:
    model = mixture("a")
    first = model(X).detach()
    model.add_adapter("second", ShareLoraConfig(r=1, target_modules=["q_proj"], target_parameters=NAMES, share="none"))
    assert plans(model).by_path.keys() == model.base_model.plans["second"].by_path.keys()
    torch.testing.assert_close(model(X), first)
    model.set_adapter("second")
    with model.disable_adapter():
        base = model(X)
    torch.testing.assert_close(model(X), base)  # its B begins at zero


def test_parameters_that_the_model_lacks_are_refused() -> None:
    with pytest.raises(UserError, match=r"target_parameters experts\.gate match no parameter of the model; .* has$"):
        mixture(target_parameters=["experts.gate"])


def test_values_are_swapped_at_one_rank_and_not_combined(tmp_path: Path) -> None:
    for rank in (2, 3):
        mixture("a", r=rank).save_pretrained(str(tmp_path / str(rank)))
    other = PeftModel.from_pretrained(Mixture(), tmp_path / "2")(X)
    model = mixture("a", lora_alpha=3)
    for matrix in bank(model).values():
        matrix.data.mul_(2)
    hotswap_adapter(model, str(tmp_path / "2"), adapter_name="default", torch_device="cpu")
    torch.testing.assert_close(model(X), other)
    with pytest.raises(UserError, match=r"experts\.up is a stack of matrices, of rank 2 here and 3 there"):
        hotswap_adapter(model, str(tmp_path / "3"), adapter_name="default", torch_device="cpu")
    with pytest.raises(UserError, match=r"experts, .* cannot be raised to rank 4"):
        swap.pad(model.base_model, 4)
    with pytest.raises(ValueError, match="does not support targeting"):
        model.add_weighted_adapter(["default"], [1.0], "half", combination_type="cat")
    torch.testing.assert_close(model(X), other)
    assert list(model.peft_config) == ["default"]


class PlusOne(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + 1


@pytest.mark.parametrize("share", ["none", "a"])
def test_a_parameter_that_is_computed_is_adapted_as_peft_does(share: str) -> None:
    def base() -> Mixture:
        model = Mixture()
        for layer in model.layers:
            nn.utils.parametrize.register_parametrization(layer.q_proj, "weight", PlusOne())
        return model

    names = ["layers.0.q_proj.weight", "layers.1.q_proj.weight"]
    model = mixture(share, model=base(), target_modules=[], target_parameters=names)
    theirs = get_peft_model(base(), LoraConfig(r=2, target_modules=[], target_parameters=names))
    for entry in plans(model).entries:
        layer: Any = theirs.base_model.model.get_submodule(entry.site.path.rpartition(".")[0])
        layer.lora_A["default"].weight.data = bank(model)[entry.a].data.clone()
        layer.lora_B["default"].weight.data = bank(model)[entry.b].data.clone()
    torch.testing.assert_close(model(X), theirs(X))
    assert (model(X) - base()(X)).abs().max() > 1e-2


def test_only_sites_that_are_so_have_experts_or_blocks() -> None:
    plain = plans(adapted(llama(), share="none")).to_json()["sites"][0]
    assert "experts" not in plain and "blocks" not in plain
    settings = BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"], nblocks=2)
    rows = plans(adapted(llama(), share="none", use_bdlora=settings)).to_json()["sites"]
    assert [row["blocks"] for row in rows[:2]] == [[2, 1], [1, 2]]
    assert plans(adapted(llama(), share="none", use_bdlora=settings)).matrices[rows[0]["a"]] == (4, 16)
