"""The command line refuses what it does not know and says what was probably meant."""

from __future__ import annotations

import pytest

from sharelora.flags.parser import Parser, Range, number, positive, tiny_environment
from sharelora.support.errors import UserError


def parser() -> Parser:
    made = Parser("demo", "A demonstration.")
    made.add_argument("--lora_r", type=positive, default=8, help="rank")
    made.add_argument("--model", help="model")
    made.switch("--bf16", help="compute in bfloat16")
    return made


def test_values_are_read() -> None:
    found = parser().parse(["--lora_r", "4", "--model=x"])
    assert (found.lora_r, found.model, found.bf16) == (4, "x", False)


@pytest.mark.parametrize(("words", "value"), [([], True), (["True"], True), (["no"], False), (["0"], False)])
def test_a_switch_stands_alone_or_takes_a_value(words: list[str], value: bool) -> None:
    assert parser().parse(["--bf16", *words]).bf16 is value


@pytest.mark.parametrize("typed", ["--lora_rr", "--lorar", "--lora-r", "--lora_rank=3"])
def test_an_unknown_flag_names_the_nearest(typed: str) -> None:
    with pytest.raises(UserError, match=r"found unknown flag --lora\S* .*did you mean --lora_r\?") as caught:
        parser().parse([typed, "5"] if "=" not in typed else [typed])
    assert "\n" not in str(caught.value)


def test_flags_cannot_be_abbreviated() -> None:
    with pytest.raises(UserError, match="--mod"):
        parser().parse(["--mod", "x"])


@pytest.mark.parametrize("words", [["--lora_r", "0"], ["--lora_r", "-3"], ["--lora_r", "x"], ["--lora_r"], ["stray"]])
def test_bad_values_are_user_errors(words: list[str]) -> None:
    with pytest.raises(UserError):
        parser().parse(words)


@pytest.mark.parametrize(
    ("range", "good", "bad", "need"),
    [
        (number, ["-1e30", "0", "1_000"], ["nan", "inf", "-inf", "1e999", "x", ""], "a finite number"),
        (Range(0), ["0", "1e-30"], ["-1e-30", "nan", "inf"], "a number of at least 0"),
        (Range(0, above=True), ["1e-30"], ["0", "-0.0", "nan"], "a number above 0"),
        (Range(0, 1, below=True), ["0", "0.999"], ["1", "-1", "nan"], "a number of at least 0 and below 1"),
        (Range(0, 1, above=True), ["1", "0.001"], ["0", "1.001"], "a number above 0 and at most 1"),
        (positive, ["1", "1e3", "2_000"], ["0", "-1", "1.5", "1e12", "9" * 90], "a whole number of at least 1"),
        (Range(0, 2**32 - 1, whole=True), ["0", "4294967295"], ["-1", "4294967296"], "at most 4294967295"),
        (Range(-1, whole=True), ["-1", "0"], ["-2", "2147483648"], "a whole number of at least -1"),
    ],
)
def test_a_range_reads_its_numbers_and_no_others(range: Range, good: list[str], bad: list[str], need: str) -> None:
    made = Parser("demo", "A demonstration.")
    made.add_argument("--x", type=range)
    for text in good:
        assert made.parse([f"--x={text}"]).x == float(text)
    for text in bad:
        with pytest.raises(UserError, match=f"argument --x: found '{text}'; need .*{need}"):
            made.parse([f"--x={text}"])


def test_subcommands_use_the_same_rules() -> None:
    outer = Parser("outer")
    outer.add_subparsers(dest="command", required=True).add_parser("inner").add_argument("--rank")
    with pytest.raises(UserError, match="inner"):
        outer.parse(["inn"])
    with pytest.raises(UserError, match="--rnk"):
        outer.parse(["inner", "--rnk", "3"])


@pytest.mark.parametrize(("setting", "tiny"), [(None, False), ("", False), ("0", False), ("1", True), ("Yes", True)])
def test_the_environment_can_ask_for_a_tiny_run(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, tiny: bool
) -> None:
    monkeypatch.delenv("SHARELORA_TINY", raising=False)
    if setting is not None:
        monkeypatch.setenv("SHARELORA_TINY", setting)
    assert tiny_environment() is tiny


def test_an_environment_that_says_neither_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARELORA_TINY", "maybe")
    with pytest.raises(UserError, match="SHARELORA_TINY: found 'maybe'; need true or false; set it to 1 or 0"):
        tiny_environment()
