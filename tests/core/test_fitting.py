"""Shared matrices found through thin factors are those that a dense singular value decomposition gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharelora.convert.fit import Product, Target, alternate, distance, fit, make_targets, row_space, spaces_of, total

D_IN, D_OUT = 12, 10


def product(rank: int, seed: int, d_in: int = D_IN, d_out: int = D_OUT) -> Product:
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(d_out, rank, generator=generator, dtype=torch.float64)
    return Product(b, torch.randn(rank, d_in, generator=generator, dtype=torch.float64))


def dense(one: Product) -> Tensor:
    return one.b @ one.a


def squared_error(targets: list[Target], found: dict[str, Tensor]) -> float:
    return sum(
        target.weight * float((dense(target.mean) - found[target.b] @ found[target.a]).square().sum())
        for target in targets
    )


def tail(matrix: Tensor, rank: int) -> float:
    """What the best approximation of that rank leaves, by Eckart and Young."""
    return float(torch.linalg.svdvals(matrix)[rank:].square().sum())


@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 999))
def test_norms_need_no_dense_product(first: int, second: int, seed: int) -> None:
    x, y = product(first, seed), product(second, seed + 1)
    assert x.norm() == pytest.approx(float(dense(x).norm()), rel=1e-12)
    assert distance(x, y) == pytest.approx(float((dense(x) - dense(y)).norm()), rel=1e-12)
    torch.testing.assert_close(dense(total([x, y])), dense(x) + dense(y))


def test_a_distance_far_below_the_norms_is_exact() -> None:
    one = product(3, 0)
    near = Product(one.b + 1e-9, one.a)
    assert distance(one, near) == pytest.approx(float((dense(one) - dense(near)).norm()), rel=1e-5)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 999))
def test_the_joint_row_space_is_that_of_the_dense_stack(ranks: list[int], seed: int) -> None:
    products = [product(rank, seed + i) for i, rank in enumerate(ranks)]
    stack = torch.cat([dense(one) for one in products])
    found = row_space(products)
    values = torch.linalg.svdvals(stack)[: len(found.values)]
    torch.testing.assert_close(found.values[: len(values)], values, rtol=1e-9, atol=1e-9)
    assert found.rank() == min(sum(ranks), D_IN)
    inside = found.rows[: found.rank()]
    torch.testing.assert_close(stack @ inside.T @ inside, stack)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_the_rank_for_an_energy_is_the_least_that_keeps_it(energy: float) -> None:
    space = row_space([product(3, 0), product(4, 1)])
    rank = space.rank_for(energy)
    share = space.values.square().cumsum(0) / space.values.square().sum()
    assert share[rank - 1] >= energy - 1e-12 and (rank == 1 or share[rank - 2] < energy)


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("side", ["A", "B"])
def test_one_shared_matrix_is_as_good_as_a_dense_svd(side: str, rank: int) -> None:
    weights, products = [1.0, 4.0, 0.25], [product(2, 0), product(3, 1), product(2, 2)]
    rows = zip(weights, products, strict=True)
    targets = make_targets(
        ("A", f"B{i}", w, p) if side == "A" else (f"A{i}", "B", w, p) for i, (w, p) in enumerate(rows)
    )
    whole = torch.cat([w**0.5 * dense(p) for w, p in zip(weights, products, strict=True)], dim=0 if side == "A" else 1)
    found = fit(targets, spaces_of(targets), rank)
    assert squared_error(targets, found) == pytest.approx(tail(whole, rank), rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("rank", [1, 4, 7])
def test_one_a_and_one_b_are_those_of_the_weighted_mean(rank: int) -> None:
    weights, products = [1.0, 4.0, 0.25], [product(2, 0), product(3, 1), product(2, 2)]
    targets = make_targets(("A", "B", w, p) for w, p in zip(weights, products, strict=True))
    mean = sum(w * dense(p) for w, p in zip(weights, products, strict=True)) / sum(weights)
    assert len(targets) == 1 and targets[0].weight == sum(weights)
    found = fit(targets, spaces_of(targets), rank)
    torch.testing.assert_close(dense(targets[0].mean), mean)
    assert squared_error(targets, found) == pytest.approx(sum(weights) * tail(mean, rank), rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("side", ["A", "B"])
def test_alternating_comes_to_what_the_svd_gives_at_once(side: str) -> None:
    names = [("A", f"B{i}") if side == "A" else (f"A{i}", "B") for i in range(3)]
    targets = make_targets((a, b, 1.0 + i, product(3, i)) for i, (a, b) in enumerate(names))
    best = squared_error(targets, fit(targets, spaces_of(targets), 2))
    start = {name: torch.randn(2, D_IN, dtype=torch.float64) for name in {a for a, _ in names}}
    assert best > 1 and squared_error(targets, alternate(targets, start)) == pytest.approx(best, rel=1e-6)


def ring(rank: int, noise: float = 0.0) -> list[Target]:
    """Two As and two Bs, each A with each B; beside the noise all are products of the same four matrices."""
    made = {name: product(rank, seed) for seed, name in enumerate("01")}
    sites = []
    for i, (a, b) in enumerate((a, b) for a in "01" for b in "01"):
        extra = product(2, 7 + i).scaled(noise)
        sites.append((f"A{a}", f"B{b}", 1.0 + i, total([Product(made[b].b, made[a].a), extra])))
    return make_targets(sites)


def test_several_as_and_bs_with_a_common_rank_are_found_exactly() -> None:
    targets = ring(3)
    found = fit(targets, spaces_of(targets), 3)
    whole = sum(target.weighted.norm() ** 2 for target in targets)
    assert squared_error(targets, found) < 1e-8 * whole
    assert {name: tuple(m.shape) for name, m in found.items()} == {
        "A0": (3, D_IN), "A1": (3, D_IN), "B0": (D_OUT, 3), "B1": (D_OUT, 3),
    }  # fmt: skip


def test_no_small_step_improves_what_alternating_found() -> None:
    targets = ring(3, noise=0.3)
    found = {name: m.clone().requires_grad_() for name, m in fit(targets, spaces_of(targets), 3).items()}
    error = sum(c.weight * (dense(c.mean) - found[c.b] @ found[c.a]).square().sum() for c in targets)
    error.backward()
    whole = sum(target.weighted.norm() ** 2 for target in targets)
    assert float(error.detach()) > 1e-3 * whole
    for matrix in found.values():
        assert float(matrix.grad.norm() * matrix.detach().norm()) < 1e-4 * whole


def test_more_rounds_never_make_it_worse(caplog: pytest.LogCaptureFixture) -> None:
    targets = ring(3, noise=0.3)
    start = {name: torch.randn(3, D_IN, dtype=torch.float64) for name in ("A0", "A1")}
    errors = [squared_error(targets, alternate(targets, start, sweeps)) for sweeps in (1, 2, 5, 20)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
    assert "still improving after 2 rounds" in caplog.text


def test_a_site_whose_weight_is_zero_is_not_asked() -> None:
    targets = make_targets([("A", "B0", 0.0, product(2, 0)), ("A", "B1", 1.0, product(2, 1))])
    found = fit(targets, spaces_of(targets), 2)
    torch.testing.assert_close(found["B1"] @ found["A"], dense(product(2, 1)))
    assert not found["B0"].any()
