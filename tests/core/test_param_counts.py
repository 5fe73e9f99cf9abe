"""Plans of real models, on the meta device, have exactly the parameters that their shapes give."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sharelora.models.known import meta_model
from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.tuner.sites import find_sites

COUNTS = json.loads((Path(__file__).parent / "param_counts.json").read_text())
RULES = {
    "lora": SharingRule(),
    "share_a": SharingRule("a"),
    "share_b": SharingRule("b"),
    "share_ab": SharingRule("ab"),
}
QKV = ("q_proj", "k_proj", "v_proj")


def _name(row: dict[str, Any]) -> str:
    return f"{row['model']}-{len(row['targets']) if 'targets' in row else 'c_attn'}"


def _counts(row: dict[str, Any], targets: list[str], enable: dict[str, list[bool]] | None = None) -> dict[str, int]:
    sites = find_sites(meta_model(row["model"]), targets, enable)
    return {field: SharingPlan.build(sites, rule, row["r"]).num_parameters for field, rule in RULES.items()}


@pytest.mark.parametrize("row", COUNTS["per_module_sharing"], ids=_name)
def test_sharing_per_kind_of_module(row: dict[str, Any]) -> None:
    assert _counts(row, row["targets"]) == {field: row[field] for field in RULES}


@pytest.mark.parametrize("row", [r for r in COUNTS["per_module_sharing"] if r["share_a_qkv"]], ids=_name)
def test_sharing_a_in_attention_only(row: dict[str, Any]) -> None:
    sites = find_sites(meta_model(row["model"]), row["targets"])
    modules = tuple(name for name in QKV if name in row["targets"])
    assert SharingPlan.build(sites, SharingRule("a", modules), row["r"]).num_parameters == row["share_a_qkv"]


@pytest.mark.parametrize("row", COUNTS["gpt2_merged_linear"], ids=_name)
def test_query_and_value_of_a_fused_module(row: dict[str, Any]) -> None:
    assert _counts(row, ["c_attn"], {"c_attn": [True, False, True]}) == {field: row[field] for field in RULES}


@pytest.mark.parametrize("row", COUNTS["layer_groups"], ids=_name)
def test_groups_of_similar_layers(row: dict[str, Any]) -> None:
    sites = find_sites(meta_model(row["model"]), row["targets"])
    groups = tuple(tuple(group) for group in row["groups"])
    grouped = SharingPlan.build(sites, SharingRule("ab", groups=groups), row["r_used"])
    assert SharingPlan.build(sites, SharingRule(), row["r_base"]).num_parameters == row["lora"]
    assert grouped.num_parameters == row["grouped"]


def test_no_row_is_skipped() -> None:
    assert {field: len(rows) for field, rows in COUNTS.items() if field != "note"} == {
        "per_module_sharing": 20,
        "gpt2_merged_linear": 3,
        "layer_groups": 4,
    }


def test_the_largest_model_is_planned_in_seconds() -> None:
    start = time.monotonic()
    plan = SharingPlan.build(find_sites(meta_model("llama3-70b")), SharingRule("a"), 64)
    assert plan.num_parameters == 434_896_896
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_the_largest_model_is_planned_in_little_memory() -> None:
    script = (
        "import resource\n"
        "from sharelora.cli.commands import main\n"
        "main(['plan', '--model', 'llama3-70b', '--lora_modules', 'all', '--share', 'a', '--lora_r', '64'])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    *table, kib = done.stdout.strip().splitlines()
    assert "434,896,896" in "\n".join(table)
    assert int(kib) < 4 * 2**20
