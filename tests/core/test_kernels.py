"""The fast path against the formula: values, gradients, masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sharelora.tuner.kernels import fused, reference
from sharelora.tuner.kernels.fused import keep_mask

P = 0.25
SCALE = 1.7
Case = dict[str, Tensor]
Forward = Callable[..., Tensor]


def inputs(dtype: torch.dtype = torch.float32, d_in: int = 48, d_out: int = 40, r: int = 6) -> Case:
    """x (2, 9, D_in), W (D_out, D_in), A, B and the gradient of the output."""
    torch.manual_seed(0)
    shapes = {"x": (2, 9, d_in), "w": (d_out, d_in), "bias": (d_out,), "a": (r, d_in), "b": (d_out, r)}
    case = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    return case | {"dy": torch.randn(2, 9, d_out).to(dtype)}


def formula(c: Case, keep: Tensor | None) -> Tensor:
    return reference.lora_linear(c["x"], c["w"], c["bias"], c["a"], c["b"], SCALE, keep, P if keep is not None else 0.0)


def one(c: Case, keep: Tensor | None) -> Tensor:
    scale = SCALE if keep is None else SCALE / (1 - P)
    return fused.adapted(c["x"], fused.Base(c["w"], c["bias"]), c["a"], c["b"], scale, _mask(c, keep))


def one_transposed(c: Case, keep: Tensor | None) -> Tensor:
    scale = SCALE if keep is None else SCALE / (1 - P)
    base = fused.Base(c["w"].t().contiguous(), c["bias"], transposed=True)
    return fused.adapted(c["x"], base, c["a"], c["b"], scale, _mask(c, keep))


def split(c: Case, keep: Tensor | None) -> Tensor:
    (h,) = fused.down(c["x"], [c["a"]], _mask(c, keep))
    scale = SCALE if keep is None else SCALE / (1 - P)
    return fused.up(c["x"], fused.Base(c["w"], c["bias"]), h, c["b"], scale)


def added(c: Case, keep: Tensor | None) -> Tensor:
    (h,) = fused.down(c["x"], [c["a"]], _mask(c, keep))
    scale = SCALE if keep is None else SCALE / (1 - P)
    return fused.add(torch.nn.functional.linear(c["x"], c["w"], c["bias"]), h, c["b"], scale)


FORMS: list[Forward] = [one, one_transposed, split, added]


def _mask(c: Case, keep: Tensor | None) -> Tensor | None:
    return None if keep is None else keep.to(c["x"].dtype)


def run(forward: Forward, case: Case, keep: Tensor | None = None) -> dict[str, Tensor]:
    """Output and gradients of x, A and B."""
    c = dict(case)
    for name in ("x", "a", "b"):
        c[name] = case[name].detach().requires_grad_()
    y = forward(c, keep)
    y.backward(case["dy"])
    return {"y": y.detach()} | {name: c[name].grad for name in ("x", "a", "b")}


def distance(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


def mask(case: Case) -> Tensor:
    return torch.rand(case["x"].shape, generator=torch.Generator().manual_seed(1)) >= P


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("forward", FORMS)
def test_fp32_equals_the_formula(forward: Forward, dropped: bool) -> None:
    case = inputs()
    keep = mask(case) if dropped else None
    found, exact = run(forward, case, keep), run(formula, {n: v.double() for n, v in case.items()}, keep)
    for name, value in found.items():
        assert value.dtype is torch.float32 and distance(value, exact[name]) < 1e-6, name
        torch.testing.assert_close(value, exact[name].float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("forward", FORMS)
def test_16_bits_err_no_more_than_the_formula(forward: Forward, dropped: bool, dtype: torch.dtype) -> None:
    case = inputs(dtype, 128, 96, 16)
    keep = mask(case) if dropped else None
    exact = run(formula, {n: v.double() for n, v in case.items()}, keep)
    found, plain = run(forward, case, keep), run(formula, case, keep)
    for name, value in found.items():
        assert value.dtype is dtype
        assert distance(value, exact[name]) < 1.3 * distance(plain[name], exact[name]) + 1e-4, name


@pytest.mark.parametrize("forward", FORMS)
@pytest.mark.parametrize("dropped", [False, True])
def test_gradients_are_exact_in_fp64(forward: Forward, dropped: bool) -> None:
    case = {name: value.double() for name, value in inputs(d_in=5, d_out=4, r=2).items()}
    case["x"] = case["x"][:, :2].contiguous()
    keep = mask(case) if dropped else None

    def function(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return forward({**case, "x": x, "a": a, "b": b}, keep)

    arguments = [case[name].clone().requires_grad_() for name in ("x", "a", "b")]
    assert torch.autograd.gradcheck(function, arguments)


@pytest.mark.parametrize("forward", FORMS)
def test_any_layout_of_the_input(forward: Forward) -> None:
    case = inputs()
    transposed = {**case, "x": case["x"].transpose(0, 1), "dy": case["dy"].transpose(0, 1)}
    assert not transposed["x"].is_contiguous()
    expected, found = run(formula, case), run(forward, transposed)
    torch.testing.assert_close(found["y"], expected["y"].transpose(0, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["x"], expected["x"].transpose(0, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["a"], expected["a"], rtol=1e-5, atol=1e-4)
    for shape in ((48,), (0, 48), (1, 2, 3, 48)):
        x = torch.randn(shape, requires_grad=True)
        y = forward({**case, "x": x}, None)
        assert y.shape == (*shape[:-1], 40)
        y.sum().backward()
        assert x.grad is not None and x.grad.shape == shape


@pytest.mark.parametrize("forward", FORMS)
def test_an_input_without_gradient_and_a_frozen_side(forward: Forward) -> None:
    case = inputs()
    expected = run(formula, case)
    for wanted in (("a",), ("b",), ("a", "b"), ("x",)):
        c = {name: value.clone().requires_grad_(name in wanted) for name, value in case.items()}
        forward(c, None).backward(case["dy"])
        for name in ("x", "a", "b", "w", "bias"):
            if name in wanted:
                torch.testing.assert_close(c[name].grad, expected[name], rtol=1e-5, atol=1e-4)
            else:
                assert c[name].grad is None


def second(forward: Forward, case: Case, keep: Tensor | None, wanted: str) -> dict[str, Tensor]:
    """Gradients of a penalty on the gradients of a loss."""
    c = {name: value.clone().requires_grad_(name in wanted) for name, value in case.items()}
    inputs = [c[name] for name in wanted]
    first = torch.autograd.grad((forward(c, keep) * c["dy"]).square().sum(), inputs, create_graph=True)
    penalty = torch.stack([value.square().sum() for value in first]).sum()
    return dict(zip(wanted, torch.autograd.grad(penalty, inputs, materialize_grads=True), strict=True))


@pytest.mark.parametrize("wanted", ["xab", "ab", "a", "b", "x"])
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("forward", FORMS)
def test_second_derivatives_are_those_of_the_formula(forward: Forward, dropped: bool, wanted: str) -> None:
    case = {name: value.double() for name, value in inputs(d_in=12, d_out=10, r=3).items()}
    keep = mask(case) if dropped else None
    found, exact = second(forward, case, keep, wanted), second(formula, case, keep, wanted)
    for name, value in found.items():
        torch.testing.assert_close(value, exact[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("forward", FORMS)
def test_second_derivatives_are_exact_in_fp64(forward: Forward, dropped: bool) -> None:
    case = {name: value.double() for name, value in inputs(d_in=4, d_out=3, r=2).items()}
    case["x"] = case["x"][:, :2].contiguous()
    keep = mask(case) if dropped else None
    arguments = [case[name].clone().requires_grad_() for name in ("x", "a", "b")]
    assert torch.autograd.gradgradcheck(lambda x, a, b: forward({**case, "x": x, "a": a, "b": b}, keep), arguments)


def test_several_sites_of_one_input() -> None:
    case = inputs()
    x = case["x"].requires_grad_()
    matrices = [torch.randn(r, 48, requires_grad=True) for r in (2, 5, 3)]
    keep = mask(case)
    weights = [torch.randn(18, r) for r in (2, 5, 3)]

    def gradients(projections: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # The second projection is not used at all.
        loss = (projections[0] * weights[0]).sum() + (projections[2] * weights[2]).sum()
        first = torch.autograd.grad(loss, [x, *matrices], materialize_grads=True, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, *matrices], materialize_grads=True)
        return *first, *second

    plain = tuple(torch.where(keep, x, 0.0).reshape(18, 48) @ a.t() for a in matrices)
    together = fused.down(x, matrices, _mask(case, keep))
    for found, expected in zip(together, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for found, expected in zip(gradients(together), gradients(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [1e-4, 0.05, 0.5, 0.9])
def test_masks_have_the_asked_rate(dtype: torch.dtype, p: float) -> None:
    x = torch.empty(300, 1001, dtype=dtype)
    keep = keep_mask(x, p).to(dtype)
    assert keep.shape == x.shape and set(keep.unique().tolist()) <= {0.0, 1.0}
    kept = keep.double()
    spread = 4 * (p * (1 - p) / x.numel()) ** 0.5
    # 16 random bits per element: a rate is met to 1 / 65536, and a tiny one never becomes none.
    assert abs(kept.mean().item() - (1 - p)) <= spread + 2**-16
    rows = kept.mean(1)
    assert rows.std().item() <= 1.3 * (p * (1 - p) / 1001) ** 0.5 + 1e-4


def test_masks_follow_the_seed() -> None:
    x = torch.empty(7, 13)
    seen = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        seen.append((keep_mask(x, 0.5), keep_mask(x, 0.5)))
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][0], seen[2][0]) and not torch.equal(seen[0][0], seen[0][1])


def test_neighbours_in_a_mask_are_independent() -> None:
    kept = keep_mask(torch.empty(200_000), 0.5).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8):
        assert abs((kept[lag:] * kept[:-lag]).mean().item()) < 4 * 0.25 / 200_000**0.5


def test_a_mask_of_nothing() -> None:
    assert keep_mask(torch.empty(0, 4), 0.5).shape == (0, 4)
