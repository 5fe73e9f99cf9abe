"""The judge over PEFT's own tests: what counts as comparable, and which refusals have a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.peft_suite.document import compose
from benchmarks.peft_suite.session import Outcome, outcomes
from benchmarks.peft_suite.verdict import FAILED, NAMED, NATURE, PASSED, comparable, judge, summary
from sharelora import ShareLoraConfig, UserError
from sharelora.tuner.config import UNSUPPORTED


def line(test: str, when: str, outcome: str, errors: tuple[tuple[str, str], ...] = (), about: bool = True) -> str:
    row = {"test": test, "when": when, "outcome": outcome, "seconds": 0.5, "about_lora": about, "errors": errors}
    return json.dumps(row)


def outcome(test: str, result: str = "passed", *errors: tuple[str, str], about: bool = True) -> Outcome:
    return Outcome(f"tests/test_mixed.py::{test}", result, about, 1.0, errors)


def test_a_test_passes_if_all_its_phases_do() -> None:
    lines = [line("one", when, "passed") for when in ("setup", "call", "teardown")]
    lines += [
        line("two", "setup", "passed"),
        line("two", "call", "passed"),
        line("two", "teardown", "failed", (("E", "m"),)),
    ]
    lines += [line("three", "setup", "skipped", about=False)]
    one, two, three = outcomes(lines)
    assert (one.result, one.seconds, one.about_lora) == ("passed", 1.5, True)
    assert (two.result, two.errors) == ("failed", (("E", "m"),))
    assert (three.result, three.about_lora) == ("skipped", False)


def test_only_tests_about_lora_that_pass_with_it_are_comparable() -> None:
    baseline = [outcome("a"), outcome("b", "failed"), outcome("c", about=False), outcome("d", "skipped")]
    assert comparable(baseline) == ["tests/test_mixed.py::a"]


def refusal(**settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        ShareLoraConfig(target_modules=["q_proj"], **settings)
    return str(caught.value)


def test_a_refusal_counts_only_with_a_reason() -> None:
    baseline = [outcome(name) for name in ("passed", "named", "nature", "wrapped", "other", "skipped", "missing")]
    nature = "share='a' across layers shares no A: no two of the 2 sites have the same shape"
    found = [
        outcome("passed"),
        outcome("named", "failed", ("UserError", refusal(use_qalora=True))),
        outcome("nature", "failed", ("UserError", nature)),
        outcome("wrapped", "failed", ("AssertionError", "Regex"), ("UserError", nature)),
        outcome("other", "failed", ("UserError", "something else")),
        outcome("skipped", "skipped"),
    ]
    verdicts = {v.test.rpartition(":")[2]: (v.kind, v.label) for v in judge(baseline, found)}
    assert verdicts["passed"] == (PASSED, "") and verdicts["named"] == (NAMED, "use_qalora")
    assert verdicts["nature"][0] == verdicts["wrapped"][0] == NATURE
    assert verdicts["other"] == (FAILED, "UserError: something else")
    assert verdicts["skipped"][0] == verdicts["missing"][0] == FAILED
    counts = summary(judge(baseline, found))
    assert [counts[kind] for kind in (PASSED, NAMED, NATURE, FAILED)] == [1, 1, 2, 3]
    assert set(counts["modules"]) == {"mixed"} and len(counts["failures"]) == 3


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_every_variant_that_is_refused_is_a_refusal_by_name(name: str) -> None:
    message = f"{name} does not go with ShareLoRA: {UNSUPPORTED[name]}; leave it out or use peft's LoraConfig"
    (verdict,) = judge([outcome("a")], [outcome("a", "failed", ("UserError", message))])
    assert (verdict.kind, verdict.label) == (NAMED, name)


GROUPS = "rank 1 for conv2d, a convolution of 2 groups that each take an equal part of it; choose a multiple"


@pytest.mark.parametrize(
    ("name", "error", "message", "kind"),
    [
        ("TestRequiresGrad::t", "AssertionError", "to require gradients, got ['base_model.lora_bank.a'", NATURE),
        ("TestRequiresGrad::t", "AssertionError", "to require gradients, got []", FAILED),
        ("TestOther::t", "AssertionError", "to require gradients, got ['base_model.lora_bank.a'", FAILED),
        ("TestLayerRepr::test_repr_lora_linear", "AssertionError", "'lora.ShareLinear(...", NATURE),
        ("T::test_load_resized_embedding_ignore_mismatched_sizes", "UserError", "made for another model: emb", NAMED),
        ("T::test_something_else", "UserError", "the adapter was made for another model", FAILED),
        ("T::t", "NoModulesError", "modules x match nothing in the model; it has y", NAMED),
        ("T::t", "AssertionError", "modules x match nothing in the model; it has y", FAILED),
        ("T::test_error_raised_if_rank_not_divisible_by_groups[a b]", "UserError", GROUPS, NAMED),
        ("T::test_prepare_for_swap_rank_not_divisible_raises", "UserError", GROUPS, NAMED),
        ("T::test_that_merges", "UserError", GROUPS, FAILED),
        ("TestDisableInputDtypeCasting::t", "Failed", "DID NOT RAISE RuntimeError", NATURE),
        ("TestOther::t", "Failed", "DID NOT RAISE RuntimeError", FAILED),
    ],
)
def test_reasons_for_single_tests_are_for_these_alone(name: str, error: str, message: str, kind: str) -> None:
    (verdict,) = judge([outcome(name)], [outcome(name, "failed", (error, message))])
    assert verdict.kind == kind


def test_the_document_has_a_row_per_way_to_share() -> None:
    runs = {
        "none": summary(judge([outcome("a"), outcome("b")], [outcome("a"), outcome("b", "failed", ("E", "x | <y>"))]))
    }
    machine = {"gpu": [], "cpu": "c", "cores": 2, "ram": 2**30, "instructions": []}
    facts = {"kind": "k", "date": "2026-01-01T00:00", "command": "c", "git": "g", "machine": machine, "versions": {}}
    text = compose({**facts, "runs": runs})
    row = next(row for row in text.splitlines() if row.startswith("| none"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["none", "2", "1", "0", "0", "1", "50.0", "50.0"]
    assert "`test_mixed.py::b`: E: x / (y)" in text
