"""Plans that a person writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_plan import sites

from sharelora import SharingPlan, SharingRule, Site, UserError
from sharelora.plan.rows import plan_from_rows

Q = {"path": "*.attn.q", "a": "q/*", "b": "{kind}/{layer}"}
REST = {"path": "*", "a": "{kind}/{layer}", "b": "{kind}/all"}


def test_patterns_and_placeholders() -> None:
    plan = plan_from_rows({"sites": [Q, {**REST, "r": 3}]}, sites(2), r=2)
    q, k = (plan.by_path[f"model.layers.1.attn.{kind}"][0] for kind in "qk")
    assert (q.a, q.b, q.r) == ("lora_A/q/*/2x8", "lora_B/attn/q/1/8x2", 2)
    assert (k.a, k.b, k.r) == ("lora_A/attn/k/1/3x8", "lora_B/attn/k/all/4x3", 3)
    assert len(plan.users[q.a]) == len(plan.users[k.b]) == 2
    assert "4 matrices" not in plan.table() and str(len(plan.matrices)) in plan.table()


def test_the_first_matching_row_decides() -> None:
    first = {"path": "model.layers.0.attn.q", "a": "mine", "b": "mine"}
    plan = plan_from_rows({"sites": [first, Q, REST]}, sites(2), 2)
    assert plan.by_path["model.layers.0.attn.q"][0].a == "lora_A/mine/2x8"
    assert plan.by_path["model.layers.1.attn.q"][0].a == "lora_A/q/*/2x8"


@pytest.mark.parametrize("rule", [SharingRule(), SharingRule("a"), SharingRule("ab", across="both")])
def test_a_saved_plan_is_a_handwritten_one(rule: SharingRule) -> None:
    plan = SharingPlan.build(sites(3), rule, 2)
    assert plan_from_rows(json.loads(json.dumps(plan.to_json())), sites(3), r=7).hash == plan.hash


def test_slices_of_a_fused_module() -> None:
    fused = [Site("h.0.c_attn", f"c_attn[{part}]", 0, 8, 8, part, 3) for part in (0, 2)]
    rows = [{"path": "*.c_attn", "part": 2, "a": "v", "b": "v"}, {"path": "h.0.c_attn[0]", "a": "q", "b": "v"}]
    plan = plan_from_rows({"sites": rows}, fused, 2)
    assert [(e.a, e.b) for e in plan.entries] == [("lora_A/q/2x8", "lora_B/v/8x2"), ("lora_A/v/2x8", "lora_B/v/8x2")]
    rows[0]["r"] = 4
    with pytest.raises(UserError, match=r"h\.0\.c_attn .* ranks 2, 4.* one rank"):
        plan_from_rows({"sites": rows}, fused, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([Q], "no row of the plan matches model.layers.0.attn.k; add one"),
        (
            [Q, REST, {"path": "*.o", "a": "o", "b": "o"}],
            r"rows of the plan match no site: \*\.o; the model has e\.g\.",
        ),
        ([{"path": "*", "b": "x"}], "a row of the plan lacks a; a row looks like"),
        ([{"path": "*"}], "lacks a, b"),
        ([{**REST, "r": 0}], "gives model.layers.0.attn.q rank 0; a rank is a whole number"),
        ([{**REST, "r": "8"}], "rank '8'"),
        ([{**REST, "a": 3}], "a is 3"),
        ([{**REST, "ar": 4}], "unknown field 'ar'; need path, a, b, r, part; did you mean 'r'"),
        ([{**REST, "d_in": 64}], "maps 64 to 8 features, the model's 8 to 8"),
        (["*"], r"found '\*' as a row of the plan"),
        ([], "at least one row"),
        ({}, "at least one row"),
    ],
)
def test_bad_rows_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_from_rows({"sites": rows}, sites(2), 2)


def test_a_plan_must_be_an_object() -> None:
    for data in ([Q], "x", None):
        with pytest.raises(UserError, match="a plan is"):
            plan_from_rows(data, sites(2), 2)  # type: ignore[arg-type]


def test_plan_files_are_read_by_the_config(tmp_path: Path) -> None:
    from toy_models import adapted, bank, llama

    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"sites": [{"path": "*.q_proj", "a": "q", "b": "{layer}"}, {**REST, "a": "v"}]}))
    model = adapted(llama(), share_plan=str(file))
    assert sorted(bank(model)) == [
        "lora_A/q/4x32", "lora_A/v/4x32", *(f"lora_B/{i}/32x4" for i in range(3)), "lora_B/self_attn/v_proj/all/16x4",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"nothing\.json"):
        adapted(llama(), share_plan=str(tmp_path / "nothing.json"))
    file.write_text("{")
    with pytest.raises(UserError, match=r"plan\.json"):
        adapted(llama(), share_plan=str(file))
