"""Plans: names, counts, files, and every way to get one wrong."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from sharelora import Entry, SharingPlan, SharingRule, Site, UserError
from sharelora.plan.plan import FORMAT, HEADER

SIZES = {"attn.q": (8, 8), "attn.k": (8, 4), "attn.v": (8, 4), "mlp.up": (8, 16), "mlp.down": (16, 8)}


def sites(layers: int = 4, kinds: tuple[str, ...] = tuple(SIZES)) -> list[Site]:
    """The linear maps of a toy model with grouped-query attention."""
    return [
        Site(f"model.layers.{layer}.{kind}", kind, layer, *SIZES[kind]) for layer in range(layers) for kind in kinds
    ]


def build(rule: SharingRule, layers: int = 4, r: int = 2, **settings: Any) -> SharingPlan:
    return SharingPlan.build(sites(layers), rule, r, **settings)


def names_of(plan: SharingPlan, path: str) -> tuple[str, str]:
    (entry,) = plan.by_path[f"model.layers.{path}"]
    return entry.a, entry.b


@pytest.mark.parametrize(
    ("rule", "a", "b"),
    [
        (SharingRule(), "attn/q/1/2x8", "attn/q/1/8x2"),
        (SharingRule("a"), "attn/q/*/2x8", "attn/q/1/8x2"),
        (SharingRule("b"), "attn/q/1/2x8", "attn/q/*/8x2"),
        (SharingRule("ab"), "attn/q/*/2x8", "attn/q/*/8x2"),
        (SharingRule("a", across="modules"), "*/1/2x8", "attn/q/1/8x2"),
        (SharingRule("a", across="both"), "*/*/2x8", "attn/q/1/8x2"),
        (SharingRule("ab", across="both"), "*/*/2x8", "*/*/8x2"),
        (SharingRule("a", groups=((0, 1), (2, 3))), "attn/q/g0/2x8", "attn/q/1/8x2"),
        (SharingRule("a", groups=((2, 3),)), "attn/q/1/2x8", "attn/q/1/8x2"),
        (SharingRule("a", groups="odd_even"), "attn/q/g0/2x8", "attn/q/1/8x2"),
        (SharingRule("a", across="both", groups=((1, 3),)), "*/g0/2x8", "attn/q/1/8x2"),
        (SharingRule("a", modules=("attn.q",)), "attn/q/*/2x8", "attn/q/1/8x2"),
        (SharingRule("a", modules=("up", "v")), "attn/q/1/2x8", "attn/q/1/8x2"),
    ],
)
def test_names_say_who_shares(rule: SharingRule, a: str, b: str) -> None:
    assert names_of(build(rule), "1.attn.q") == (f"lora_A/{a}", f"lora_B/{b}")


def test_counts_of_each_mode() -> None:
    a, b = 2 * (8 + 8 + 8 + 8 + 16), 2 * (8 + 4 + 4 + 16 + 8)
    counted = {share: build(SharingRule(share)).num_parameters for share in ("none", "a", "b", "ab")}
    assert counted == {"none": 4 * (a + b), "a": a + 4 * b, "b": 4 * a + b, "ab": a + b}
    assert {build(SharingRule(share)).num_unshared for share in counted} == {4 * (a + b)}


def test_shape_splits_what_a_key_joins() -> None:
    plan = build(SharingRule("ab", across="modules"))
    # q, k, v and up read 8 features, down reads 16; k and v write 4, q and down 8, up 16.
    assert {name: len(users) for name, users in plan.users.items() if "/0/" in name} == {
        "lora_A/*/0/2x8": 4,
        "lora_A/*/0/2x16": 1,
        "lora_B/*/0/8x2": 2,
        "lora_B/*/0/4x2": 2,
        "lora_B/*/0/16x2": 1,
    }


def test_other_ranks_split_too() -> None:
    plan = build(SharingRule("a", across="modules"), rank_pattern={"attn.k": 3, "up": 5})
    assert {entry.site.kind: entry.r for entry in plan.entries} == {
        "attn.q": 2, "attn.k": 3, "attn.v": 2, "mlp.up": 5, "mlp.down": 2,
    }  # fmt: skip
    assert names_of(plan, "0.attn.k")[0] == "lora_A/*/0/3x8" and names_of(plan, "0.attn.v")[0] == "lora_A/*/0/2x8"


def test_a_path_outranks_a_suffix_of_another() -> None:
    both = [Site("block.fc", "block.fc", None, 4, 4), Site("fc", "fc", None, 4, 4)]
    plan = SharingPlan.build(both, SharingRule(), 2, {"block.fc": 8, "fc": 3})
    assert [entry.r for entry in plan.entries] == [8, 3]


def test_a_module_outside_the_layers_keeps_its_own() -> None:
    plan = SharingPlan.build([*sites(2), Site("head", "head", None, 8, 8)], SharingRule("ab", across="both"), 2)
    (head,) = plan.by_path["head"]
    assert (head.a, head.b) == ("lora_A/head/-/2x8", "lora_B/head/-/8x2")
    assert plan.users[head.a] == [head.site]


def test_odd_even_leaves_a_last_layer_alone() -> None:
    plan = build(SharingRule("a", groups="odd_even"), layers=3)
    assert sorted(len(users) for users in plan.users.values() if users[0].kind == "attn.q") == [1, 1, 1, 1, 2]


def test_json_round_trip_and_hash() -> None:
    plan = build(SharingRule("a", across="both"))
    again = SharingPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan and again.hash == plan.hash
    others = [build(SharingRule("a")), build(SharingRule("a", across="both"), r=3), build(SharingRule("a"), layers=5)]
    assert len({plan.hash, *(other.hash for other in others)}) == 4


def test_plans_are_frozen() -> None:
    plan = build(SharingRule("a"))
    for thing, field in ((plan, "entries"), (plan.entries[0], "a"), (plan.entries[0].site, "path")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, None)


def test_the_table_adds_up() -> None:
    plan = build(SharingRule("ab", groups=((0, 1, 3),)))
    header, *rows, total = plan.table().splitlines()
    assert header.split()[:2] == list(HEADER[:2])
    assert sum(int(row.split()[-1].replace(",", "")) for row in rows) == plan.num_parameters
    assert f"{plan.num_parameters:,} parameters" in total and plan.hash in total
    assert any("groups" in row and "attn.q" in row and " 3 " in row for row in rows)
    assert f"{1 - plan.num_parameters / plan.num_unshared:.1%} fewer" in total


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": "A"}, "share='A' is unknown; need one of none, a, b, ab"),
        ({"share": "abb"}, "did you mean 'ab'"),
        ({"share": "a", "across": "layer"}, "share_across='layer' .* did you mean 'layers'"),
        ({"share": "a", "groups": "odd-even"}, "share_groups='odd-even' .* did you mean 'odd_even'"),
        ({"share": "a", "groups": ((0,), (1, 2))}, r"group 0 is \[0\]; a group needs at least two layers"),
        ({"share": "a", "groups": ((1, 1),)}, r"group 0 is \[1, 1\]"),
        ({"share": "a", "groups": ((0, 1), (1, 2))}, "layer 1 is in groups 0 and 1; groups must not overlap"),
        ({"share": "a", "across": "modules", "groups": ((0, 1),)}, "keeps each layer apart; use 'layers' or 'both'"),
        ({"modules": ("attn.q",)}, "share='none' shares nothing"),
        ({"groups": "odd_even"}, "share='none' shares nothing"),
    ],
)
def test_contradicting_rules_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SharingRule(**fields)


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        (SharingRule("a", modules=("q_proj",)), {}, "'q_proj', which is not adapted; the adapted modules are attn.k"),
        (SharingRule("a", groups=((2, 4),)), {}, r"layers \[4\]; the adapted layers are 0 to 3"),
        (SharingRule("a", groups=((-1, 0),)), {}, r"layers \[-1\]"),
        (SharingRule("a"), {"layers": 1}, "shares no A: no two of the 5 sites"),
        (SharingRule("ab", across="modules", modules=("attn.q", "attn.k")), {}, "shares no B"),
        (SharingRule(), {"r": 0}, "rank 0 for model.layers.0.attn.q; a rank is 1 or more"),
        (SharingRule(), {"r": -3}, "rank -3"),
        (SharingRule(), {"rank_pattern": {"v": 0}}, "rank 0 for model.layers.0.attn.v"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rule: SharingRule, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(rule, **settings)


def test_inconsistent_plans_are_refused() -> None:
    q, k = sites(1)[:2]
    with pytest.raises(UserError, match="no sites"):
        SharingPlan(())
    with pytest.raises(UserError, match=r"twice in the plan: model\.layers\.0\.attn\.q; list each once"):
        SharingPlan((Entry(q, 2, "lora_A/x", "lora_B/x"), Entry(q, 2, "lora_A/y", "lora_B/y")))
    with pytest.raises(UserError, match=r"lora_B/x would be \(8, 2\) for one site and \(4, 2\) for model"):
        SharingPlan((Entry(q, 2, "lora_A/x", "lora_B/x"), Entry(k, 2, "lora_A/x", "lora_B/x")))
    for a, b in (("x", "lora_B/x"), ("lora_A/x", "lora_A/x"), ("lora_A/x.y", "lora_B/x")):
        with pytest.raises(UserError, match="invalid name"):
            SharingPlan((Entry(q, 2, a, b),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "sharelora-plan/0"}, "plan has format 'sharelora-plan/0'; need 'sharelora-plan/1'"),
        ({"sites": [{"path": "x"}]}, r"no sites\[0\]\.kind"),
        ({"sites": [["x"]]}, "need every field"),
        ({"sites": None}, "need every field"),
        ({"sites": []}, "no sites"),
    ],
)
def test_damaged_plan_files_are_refused(change: dict[str, Any], message: str) -> None:
    data = build(SharingRule("a")).to_json() | change
    with pytest.raises(UserError, match=message):
        SharingPlan.from_json(data)


def test_a_plan_that_is_no_object_is_refused() -> None:
    for data in ([], "plan", 3, None):
        with pytest.raises(UserError, match=f"need {FORMAT!r}"):
            SharingPlan.from_json(data)  # type: ignore[arg-type]
