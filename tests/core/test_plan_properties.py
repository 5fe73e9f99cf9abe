"""What holds for every plan, whatever the model and the rule."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("hypothesis")
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sharelora import Entry, SharingPlan, SharingRule, Site, UserError

KINDS = ("attn.q", "attn.k", "mlp.up", "mlp.down")
FEW = settings(max_examples=60, deadline=None, database=None)


@st.composite
def models(draw: st.DrawFn) -> list[Site]:
    """Models of up to 6 layers whose modules differ in size, also between layers, some with a fused module."""
    size = st.sampled_from((2, 4, 6))
    sites = [
        Site(f"h.{layer}.{kind}", kind, layer, draw(size), draw(size))
        for layer in range(draw(st.integers(1, 6)))
        for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, unique=True))
    ]
    if draw(st.booleans()):
        sites += [Site("h.0.qkv", f"qkv[{part}]", 0, 4, 2, part, 3) for part in (0, 2)]
    return sites + [Site("head", "head", None, 4, 2)] * draw(st.integers(0, 1))


@st.composite
def groups(draw: st.DrawFn, layers: list[int]) -> tuple[tuple[int, ...], ...]:
    order = draw(st.permutations(layers))
    cut = draw(st.integers(0, len(order)))
    return tuple(tuple(part) for part in (order[:cut], order[cut:]) if len(part) > 1)


@st.composite
def plans(draw: st.DrawFn) -> SharingPlan:
    """Plans of every rule; those rules are left out that share nothing in the drawn model."""
    sites = draw(models())
    share = draw(st.sampled_from(("none", "a", "b", "ab")))
    across = draw(st.sampled_from(("layers", "modules", "both")))
    modules, chosen = None, None
    if share != "none":
        kinds = sorted({site.kind for site in sites})
        modules = draw(st.none() | st.lists(st.sampled_from(kinds), min_size=1, unique=True).map(tuple))
        if across != "modules":
            layers = sorted({site.layer for site in sites if site.layer is not None})
            chosen = draw(st.none() | st.just("odd_even") | groups(layers)) or None
    rule = SharingRule(share, modules, across, chosen)
    pattern = draw(st.dictionaries(st.sampled_from(("q", "attn.k", "head")), st.integers(1, 5)))
    try:
        return SharingPlan.build(sites, rule, draw(st.integers(1, 4)), pattern)
    except UserError as error:
        assume("shares no" not in str(error))
        raise


@FEW
@given(plans())
def test_counts_are_those_of_the_distinct_matrices(plan: SharingPlan) -> None:
    shapes = {name: shape for entry in plan.entries for name, shape in entry.shapes().items()}
    assert plan.matrices == shapes
    assert plan.num_parameters == sum(rows * cols for rows, cols in shapes.values()) <= plan.num_unshared
    assert plan.shares == (len(shapes) < 2 * len(plan.entries))


@FEW
@given(plans())
def test_the_users_of_each_side_are_the_sites(plan: SharingPlan) -> None:
    for side in "AB":
        users = [site for name, found in plan.users.items() if name.startswith(f"lora_{side}/") for site in found]
        assert sorted(site.name for site in users) == sorted(entry.site.name for entry in plan.entries)


@FEW
@given(plans())
def test_json_is_a_faithful_copy(plan: SharingPlan) -> None:
    again = SharingPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan and again.hash == plan.hash and again.table() == plan.table()


@FEW
@given(plans(), st.randoms())
def test_the_order_of_layers_does_not_change_the_names(plan: SharingPlan, random: object) -> None:
    entries = list(plan.entries)
    random.shuffle(entries)  # type: ignore[attr-defined]
    assert SharingPlan(tuple(entries)).matrices == plan.matrices


@FEW
@given(plans(), st.data())
def test_joining_two_matrices_never_costs_parameters(plan: SharingPlan, data: st.DataObject) -> None:
    first, second = (data.draw(st.sampled_from(plan.entries)) for _ in range(2))
    assume(first.shapes()[first.a] == second.shapes()[second.a])
    joined = tuple(Entry(e.site, e.r, first.a if e.a == second.a else e.a, e.b) for e in plan.entries)
    assert SharingPlan(joined).num_parameters <= plan.num_parameters
