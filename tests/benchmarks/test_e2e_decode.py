"""The comparison of ways to decode: upstream's own way finds the same texts, and times are reckoned up fairly."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.harness import machine
from benchmarks.speed import decoded, e2e_decode
from benchmarks.speed.upstream_beam import upstream_search
from sharelora import UserError
from sharelora.evaluation.beam.decoding import decode
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.reference import reference_search

ENDS = (3, 7, 11)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    made = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=64, eos_token_id=3))
    with torch.no_grad():
        for value in made.parameters():
            if value.ndim == 2:
                value.normal_(std=0.3)
    return made.eval()


def prompts(count: int) -> list[list[int]]:
    return [[(7 * row + place) % 30 for place in range(3 + 2 * row)] for row in range(count)]


@pytest.mark.parametrize(
    "change",
    [{"beam": 1}, {"beam": 4, "length_penalty": 0.8}, {"beam": 3, "repetition_penalty": 1.3, "min_length": 3}],
    ids=str,
)
def test_upstreams_way_finds_the_texts_of_the_definition(model: Any, change: dict[str, Any]) -> None:
    settings = BeamSettings(ENDS, **{"eval_len": 8, "no_repeat_ngram_size": 2, **change})
    for prompt in prompts(4):
        found, expected = upstream_search(model, prompt, settings, 40), reference_search(model, prompt, settings)
        assert found.ids == expected.ids and found.score == pytest.approx(expected.score, abs=1e-4)
    ours = decode(model, prompts(4), settings, 0).best
    assert [text.ids for text in ours] == [upstream_search(model, row, settings, 40).ids for row in prompts(4)]


def subject(model: Any, rows: list[int]) -> decoded.Subject:
    settings = BeamSettings(ENDS, beam=2, eval_len=6)
    return decoded.Subject(model, prompts(max(rows) + 1), rows, settings, 0, "a test")


def test_what_one_way_decodes_the_next_one_decodes_too(model: Any) -> None:
    found = subject(model, [0, 0, 0, 1, 2, 2, 3, 4, 5])
    part = decoded.choose(found, sample=2, rows=4, limit=None, seed=1)
    assert part.sample == part.rows[:2] and set(part.rows) <= set(part.inputs)
    assert sorted(part.inputs) == list(range(6)) and len(part.rows) == 4
    small = decoded.choose(found, 2, 4, len(set(part.rows)), 1)
    assert set(small.inputs) == set(part.rows) and small.rows == part.rows
    assert len(decoded.choose(found, 1, 99, None, 0).rows) == 9
    for numbers in ((0, 4, None), (5, 4, None), (2, 9, 1)):
        with pytest.raises(UserError, match="need at least"):
            decoded.choose(found, *numbers, seed=1)


def test_times_are_reckoned_by_the_rows_that_they_stand_for(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The load of others is read before and after.
    clock = iter([0.0, 0.0, 10.0, 10.0])
    monkeypatch.setattr(e2e_decode.time, "perf_counter", lambda: next(clock))
    cpu = iter([1.0, 5.0])
    monkeypatch.setattr(e2e_decode.time, "process_time", lambda: next(cpu))
    found = e2e_decode._timed("distinct", [4, 5], lambda: ["x", "y"], rows=20, whole=100)
    assert (found["seconds_per_row"], found["whole_seconds"], found["measured_whole"]) == (0.5, 50, False)
    assert found["cpu_seconds_per_row"] == 0.2 and found["texts"] == {4: "x", 5: "y"}


def test_the_report_of_a_whole_comparison(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "others_now", lambda: 0.0)
    monkeypatch.setattr(decoded, "load_subject", lambda given: subject(model, [0, 0, 1, 1, 1, 2]))
    flags = [
        "--sample",
        "2",
        "--rows",
        "4",
        "--beam",
        "2",
        "--eval_len",
        "6",
        "--seq_len",
        "40",
        "--save",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["e2e_decode.py", *flags])
    e2e_decode.main()
    (file,) = tmp_path.glob("e2e_decode-*.json")
    result = json.loads(file.read_text())
    ways = result["ways"]
    assert [(way["prompts"], way["rows"]) for way in ways.values()] == [(2, 2), (4, 4), (3, 6)]
    assert ways["distinct"]["measured_whole"] and not ways["upstream"]["measured_whole"]
    assert all(row["same"] == row["inputs"] for row in result["texts"])
    text = capsys.readouterr().out
    assert (
        "6 rows, 3 distinct inputs" in text
        and "(extrapolated)" in text
        and "x as fast as upstream (at least 100)" in text
    )


def test_the_rival_is_given_the_inputs_whose_length_is_the_most_common() -> None:
    assert e2e_decode._alike([0, 1, 2, 3, 4], [[1], [1, 2], [3], [1, 2, 3], [4, 5]]) == [0, 2, 1, 4, 3]


def test_goals_are_those_of_the_ways_that_were_run() -> None:
    ways = {"upstream": 50.0, "batched": 1.0, "distinct": 0.5}
    seconds = {name: {"seconds_per_row": value} for name, value in ways.items()}
    assert e2e_decode._goals(seconds) == ["- met: 100x as fast as upstream (at least 100)"]
    seconds["ctranslate2"] = {"seconds_per_row": 0.4}
    assert e2e_decode._goals(seconds)[1] == "- MISSED: 0.8x as fast as ctranslate2 (at least 1)"


def test_random_weights_have_prompts_of_the_real_lengths(tmp_path: Path) -> None:
    file = tmp_path / "test.txt"
    file.write_text("name : a b c||x\nname : a b c||y\nname : a||z\n")
    given = argparse.Namespace(
        quick=False, shape="gpt2", seed=0, data=str(file), data_root=None, beam=3, eval_len=4, length_penalty=0.8
    )
    config = decoded.model_config("gpt2")
    config.n_layer, config.n_embd, config.n_head, config.vocab_size = 1, 16, 2, 99
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoded, "model_config", lambda name: config)
        found = decoded.load_subject(given)
    assert found.rows == [0, 0, 1] and [len(row) for row in found.prompts] == [6, 4]
    assert found.settings.eos_ids == (98,) and found.count == 3


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="found no model; need --model DIR, --shape gpt2 or --quick"):
        decoded.load_subject(e2e_decode.arguments([]))
