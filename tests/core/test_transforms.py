"""`torch.func`, forward-mode and second derivatives of adapted models, against models of the formula's own matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from toy_models import language_batch, llama, shake

from sharelora import ShareLoraConfig
from sharelora.tuner.kernels import fused
from sharelora.tuner.kernels.reference import lora_linear

Values = dict[str, Tensor]


class Attention(nn.Module):
    """Linear layers that read one input, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.o_proj = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.o_proj(torch.tanh(self.q_proj(x)) * self.k_proj(x))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Attention() for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(params=["a", "ab"])
def model(request: pytest.FixtureRequest) -> PeftModel:
    torch.manual_seed(0)
    config = ShareLoraConfig(r=2, share=request.param, target_modules=["q_proj", "k_proj", "o_proj"])
    return shake(get_peft_model(Stack().double(), config, autocast_adapter_dtype=False).double())


def values(model: PeftModel) -> Values:
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def ours(model: PeftModel) -> Callable[[Values, Tensor], Tensor]:
    return lambda matrices, x: functional_call(model, matrices, (x,))


def formula(model: PeftModel) -> Callable[[Values, Tensor], Tensor]:
    """The same network, written down with the papers' formula."""
    entries = model.base_model.plans["default"].by_path
    bank = "base_model.lora_bank.default."

    def function(matrices: Values, x: Tensor) -> Tensor:
        def site(index: int, name: str, x: Tensor) -> Tensor:
            path = f"layers.{index}.{name}"
            layer, (entry,) = model.base_model.model.get_submodule(path), entries[path]
            a, b = matrices[bank + entry.a], matrices[bank + entry.b]
            return lora_linear(x, layer.base_layer.weight, layer.base_layer.bias, a, b, layer.scaling["default"])

        for i in range(2):
            x = x + site(i, "o_proj", torch.tanh(site(i, "q_proj", x)) * site(i, "k_proj", x))
        return x

    return function


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


X = torch.randn(5, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
DX = torch.randn(5, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def loss(function: Callable[[Values, Tensor], Tensor]) -> Callable[[Values, Tensor], Tensor]:
    return lambda matrices, x: function(matrices, x).square().mean()


TRANSFORMS: dict[str, Callable[[Callable[[Values, Tensor], Tensor], Values], Any]] = {
    "grad": lambda f, m: grad(loss(f))(m, X),
    "grad per sample": lambda f, m: vmap(grad(loss(f)), in_dims=(None, 0))(m, X),
    "vmap over inputs": lambda f, m: vmap(f, in_dims=(None, 0))(m, X),
    "vmap over matrices": lambda f, m: vmap(f, in_dims=(0, None))(
        {n: torch.stack([v, 2 * v]) for n, v in m.items()}, X
    ),
    "jvp of inputs": lambda f, m: jvp(lambda x: f(m, x), (X,), (DX,)),
    "jvp of matrices": lambda f, m: jvp(lambda m: f(m, X), (m,), ({n: v.cos() for n, v in m.items()},)),
    "vjp": lambda f, m: vjp(lambda x: f(m, x), X)[1](DX),
    "jacrev": lambda f, m: jacrev(lambda x: f(m, x))(X[0]),
    "jacfwd": lambda f, m: jacfwd(lambda x: f(m, x))(X[0]),
    "hessian": lambda f, m: hessian(lambda x: loss(f)(m, x))(X[0]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_those_of_the_formula(model: PeftModel, name: str) -> None:
    transform = TRANSFORMS[name]
    same(transform(ours(model), values(model)), transform(formula(model), values(model)))


def test_forward_mode_without_a_transform(model: PeftModel) -> None:
    found = []
    for function in (lambda matrices, x: model(x), formula(model)):
        with forward_ad.dual_level():
            found.append(forward_ad.unpack_dual(function(values(model), forward_ad.make_dual(X, DX))))
    same(found[0].primal, found[1].primal)
    same(found[0].tangent, found[1].tangent)


def test_a_penalty_on_gradients_trains_as_with_the_formula(model: PeftModel) -> None:
    def penalty(function: Callable[[Tensor], Tensor], matrices: Values) -> Values:
        x = X.clone().requires_grad_()
        (first,) = torch.autograd.grad(function(x).square().mean(), x, create_graph=True)
        found = torch.autograd.grad(first.square().sum(), list(matrices.values()))
        return dict(zip(matrices, found, strict=True))

    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    copies = {name: value.detach().clone().requires_grad_() for name, value in trained.items()}
    same(penalty(model, trained), penalty(lambda x: formula(model)(copies, x), copies))


def test_a_hessian_vector_product_of_a_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ShareLoraConfig(r=2, share="a", target_modules=["q_proj", "v_proj", "o_proj"])
    # Eager, for torch has no second derivative of its fused attention.
    model = shake(get_peft_model(llama(2, attn_implementation="eager"), config))
    trained = [value for value in model.parameters() if value.requires_grad]
    found = []
    for formula_alone in (False, True):
        if formula_alone:
            monkeypatch.setattr(fused, "transformed", lambda: True)
        first = torch.autograd.grad(model(**language_batch()).loss, trained, create_graph=True)
        found.append(torch.autograd.grad(first, trained, [torch.full_like(value, 0.5) for value in trained]))
    for kernels, formula in zip(*found, strict=True):
        torch.testing.assert_close(kernels, formula, rtol=1e-4, atol=1e-5)


def test_after_a_transform_the_kernels_serve_again(model: PeftModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("down", "adapted"):
        real = getattr(fused, name)
        monkeypatch.setattr(fused, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    grad(loss(ours(model)))(values(model), X)
    assert calls == []
    model(X)
    assert "down" in calls and "adapted" in calls
