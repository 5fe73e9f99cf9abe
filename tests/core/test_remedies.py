"""Which changes are named where memory does not suffice, in which order, and what they are said to save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sharelora.memory.advice import Change, FlagNames, advice, changes, cheapest

GB = 10**9
NAMES = FlagNames("batch_size", "accumulation", ("source", "target"))
SETTINGS = {"batch": 8, "tokens": 1280, "bits": 16, "dtype": "bf16", "checkpointing": False}
RANK = 64
ROWS = {"source": 1024, "target": 256}


def need(lora: Mapping[str, Any] | None = None, **settings: Any) -> int:
    """A run of a base, of activations that grow with batch and tokens, and of adapters that grow with the rank."""
    now = {**SETTINGS, **settings}
    adapter = {"r": RANK, "share": "none", **(lora or {})}
    base = GB * now["bits"]
    activations = now["batch"] * now["tokens"] * 10**6 // (4 if now["checkpointing"] else 1)
    return base + activations + GB * adapter["r"] // (16 if adapter["share"] == "none" else 32)


def words(**settings: Any) -> list[str]:
    return [change.flags for change in changes({**SETTINGS, **settings}, 2, ROWS, NAMES, need, RANK, shares=False)]


def test_all_changes_in_the_order_of_their_price() -> None:
    assert words() == [
        "--batch_size 4 --accumulation 4",
        "--gradient_checkpointing true",
        "--bits 4 --bf16 true",
        "--lora_r 32",
        "--share a",
        "--source 512 --target 128",
    ]


@pytest.mark.parametrize(
    ("settings", "absent", "present"),
    [
        ({"batch": 1}, "--batch_size", "--gradient_checkpointing true"),
        ({"checkpointing": True}, "--gradient_checkpointing", "--batch_size 4 --accumulation 4"),
        ({"bits": 4}, "--bits", "--share a"),
        ({"bits": 4, "dtype": "fp32"}, "--bits", "--bf16 true"),
        ({"bits": 32, "dtype": "fp32"}, "--bf16 true --bits", "--bits 16"),
        ({"batch": 9}, "--batch_size 4", "--batch_size 3 --accumulation 6"),
        ({"batch": 7}, "--batch_size 3", "--batch_size 1 --accumulation 14"),
    ],
)
def test_what_is_done_already_is_not_advised(settings: dict[str, Any], absent: str, present: str) -> None:
    found = words(**settings)
    assert present in found and not [flags for flags in found if flags.startswith(absent)]


def test_a_plan_by_hand_keeps_its_ranks_and_a_command_without_bits_its_precision() -> None:
    names = FlagNames("b", "a", ("source",), bits=False)
    found = [change.flags for change in changes(SETTINGS, 1, {"source": 1024}, names, need, None, shares=True)]
    assert found == ["--b 4 --a 2", "--gradient_checkpointing true", "--source 512"]
    assert "--bits" not in names.general() and "--source" in names.general()


def test_the_needs_are_those_of_the_changed_settings() -> None:
    found = {change.flags: change.need for change in changes(SETTINGS, 2, ROWS, NAMES, need, RANK, shares=False)}
    assert found["--batch_size 4 --accumulation 4"] == need(batch=4)
    assert found["--bits 4 --bf16 true"] == need(bits=4)
    assert found["--lora_r 32"] == need(lora={"r": 32})
    assert found["--source 512 --target 128"] == need(tokens=640)


def test_the_cheapest_three_that_save_something_are_chosen() -> None:
    ordered = [Change("a", "", 99), Change("b", "", 80), Change("c", "", 95), Change("d", "", 10), Change("e", "", 5)]
    assert [change.flags for change in cheapest(100, ordered)] == ["b", "c", "d"]


def test_where_nothing_saves_much_what_saves_most_comes_first_and_what_saves_nothing_never() -> None:
    ordered = [
        Change("a", "", 100),
        Change("b", "", 99),
        Change("c", "", 98),
        Change("d", "", 101),
        Change("e", "", 50),
    ]
    assert [change.flags for change in cheapest(100, ordered)] == ["e", "c", "b"]
    assert cheapest(1, ordered) == [] and advice(1, ordered) == ""


def test_the_advice_says_flags_savings_and_prices() -> None:
    now = need()
    assert advice(now, changes(SETTINGS, 2, ROWS, NAMES, need, RANK, shares=False)) == (
        "--batch_size 4 --accumulation 4 (saves 5.12 GB; the same updates), or "
        "--gradient_checkpointing true (saves 7.68 GB; a third more time), or "
        "--bits 4 --bf16 true (saves 12.0 GB; a base of 4 bits)"
    )
