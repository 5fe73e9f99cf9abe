"""The sharing flags mean exactly one thing, or are refused with what to write instead."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from sharelora.flags.adapter import AdapterSettings
from sharelora.flags.parser import Parser
from sharelora.flags.sharing import adapter_settings, add_share_flags, parse_groups, parse_modules, parse_parts
from sharelora.models.known import meta_model
from sharelora.plan.rule import SharingRule
from sharelora.support.errors import UserError


def flags(text: str = "") -> argparse.Namespace:
    parser = Parser()
    add_share_flags(parser)
    return parser.parse(text.split())


def settings(text: str = "") -> AdapterSettings:
    return adapter_settings(flags(text))


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("0-3,4-7", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("0,1;2,3", ((0, 1), (2, 3))),
        ("0-1,4;2,3", ((0, 1, 4), (2, 3))),
        ("0,1,2", ((0, 1, 2),)),
        ("0-3", ((0, 1, 2, 3),)),
        (" 0 - 1 ; 2 , 3 ", ((0, 1), (2, 3))),
        ("odd_even", "odd_even"),
    ],
)
def test_groups_of_layers(text: str, groups: object) -> None:
    assert parse_groups(text) == groups


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-3,5", "mixes layers and ranges; say where groups end"),
        ("0-3,", "found ''; need a layer or a range"),
        ("even", "found 'even'; need a layer or a range"),
        ("-1,2", "found '-1'"),
        ("3-0", "found the range '3-0'; need first-last"),
        ("0-99999999999", "found the range"),
    ],
)
def test_groups_that_could_mean_two_things_or_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_groups(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--share c", "share='c' is unknown; need one of none, a, b, ab"),
        ("--share a --share_across layer", "did you mean 'layers'"),
        ("--share none --share_modules q_proj", "shares nothing, yet share_modules"),
        ("--share a --share_groups 0,1;1,2", "layer 1 is in groups 0 and 1"),
        ("--share a --share_modules q_proj,,v_proj", "need names with a comma"),
        ("--share a --share_plan x.json", "found --share_plan and --share;"),
    ],
)
def test_contradictions_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(text)


@pytest.mark.parametrize(
    ("text", "message"), [("--lora_r 0", "at least 1"), ("--lora_r -8", "at least 1"), ("--shar a", "mean --share")]
)
def test_bad_flags_are_refused_before_anything_else(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        flags(text)


def test_modules_and_parts() -> None:
    assert parse_modules("all") == "all-linear"
    assert parse_modules("q_proj, v_proj") == ["q_proj", "v_proj"]
    assert parse_parts("c_attn=1,0,1;qkv=0, 1") == {"c_attn": [True, False, True], "qkv": [False, True]}
    for bad in ("c_attn", "c_attn=1", "=1,0", "c_attn=1,2"):
        with pytest.raises(UserError, match="need module=flags"):
            parse_parts(bad)


def test_sharing_a_is_the_default() -> None:
    assert settings().rule == SharingRule("a")


def test_the_rule_the_plan_and_the_configuration_agree() -> None:
    words = "--share ab --share_modules c_attn --share_groups 0-5,6-11 --lora_r 4 --lora_modules c_attn,c_fc"
    adapter = settings(words)
    rule, config = adapter.rule, adapter.config(meta_model("gpt2"), task_type="CAUSAL_LM")
    assert rule == SharingRule("ab", ("c_attn",), "layers", ((0, 1, 2, 3, 4, 5), (6, 7, 8, 9, 10, 11)))
    assert config.rule() == rule
    assert (config.r, config.target_modules, config.task_type) == (4, {"c_attn", "c_fc"}, "CAUSAL_LM")
    plan = adapter.plan(meta_model("gpt2"))
    own = 12 * 4 * (768 + 3072)
    assert plan.num_parameters == own + 2 * 4 * (768 + 3 * 768)


def test_slices_of_a_fused_module() -> None:
    plan = settings("--lora_modules c_attn --enable_lora c_attn=1,0,1 --lora_r 4").plan(meta_model("gpt2"))
    assert plan.num_parameters == 79872


def test_a_plan_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"sites": [{"path": "*", "a": "all", "b": "{kind}/{layer}"}]}))
    adapter = settings(f"--share_plan {file} --lora_modules query,value --lora_r 8")
    assert adapter.rule is None
    model = meta_model("roberta-base")
    assert adapter.plan(model).num_parameters == 8 * 768 + 12 * 2 * 8 * 768
    assert adapter.config(model).share_plan == json.loads(file.read_text())


@pytest.mark.parametrize(
    ("groups", "formula", "rank"), [("0,1;2-4", "none", 8), ("0,1;2-4", "tables", 9), ("0,1;2-4", "text", 10),
                                    ("odd_even", "tables", 16), ("odd_even", "text", 16)],
)  # fmt: skip
def test_groups_that_are_written_out_expand_the_rank(groups: str, formula: str, rank: int) -> None:
    # GPT-2 has 12 layers: 12 * 8 // (12 - 2) = 9, 12 * 8 // (12 - 5 + 2) = 10, 12 * 8 // (12 - 6) = 16.
    adapter = settings(
        f"--share ab --share_groups {groups} --expand_rank {formula} --lora_r 8 --lora_modules c_fc --lora_alpha 16"
    )
    model = meta_model("gpt2")
    assert {entry.r for entry in adapter.plan(model).entries} == {rank}
    assert adapter.config(model).r == rank and adapter.r == 8


@pytest.mark.parametrize("words", ["--expand_rank tables", "--share_plan {plan} --expand_rank text"])
def test_a_rank_expands_with_groups_alone(words: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"sites": [{"path": "*", "a": "all", "b": "{kind}/{layer}"}]}))
    with pytest.raises(
        UserError, match=r"^found --expand_rank \w+ without groups of layers; .* --share_groups, or drop"
    ):
        settings(words.format(plan=tmp_path / "plan.json"))
    with pytest.raises(UserError, match=r"^found expand_rank 'table'; need one of none, text, tables"):
        settings("--share_groups 0,1 --expand_rank table")
