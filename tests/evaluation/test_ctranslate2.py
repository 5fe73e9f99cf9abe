"""Another library's beam search: what it is given, and what it is refused for."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sharelora import UserError
from sharelora.evaluation.beam import BeamSettings, ctranslate2, decode

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


def test_it_finds_our_texts_where_none_ends_early(model: Any) -> None:
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")
    settings = BeamSettings(ENDS, beam=3, eval_len=6, min_length=6, length_penalty=0.8, no_repeat_ngram_size=2)
    ours = decode(model, prompts(4), settings, 0).best
    with ctranslate2.opened(model, 3, 1) as generator:
        for stop in (ctranslate2.NO_STOP, ctranslate2.OWN_STOP):
            theirs = ctranslate2.search(generator, prompts(4), settings, stop)
            assert [text.ids for text in theirs] == [text.ids for text in ours]
            assert [text.score for text in theirs] == pytest.approx([text.score for text in ours], abs=1e-4)


def test_it_is_given_prompts_of_one_length_at_a_time(model: Any) -> None:
    batches = []

    class Generator:
        def generate_batch(self, rows: list[list[str]], **options: Any) -> list[Any]:
            assert len({len(row) for row in rows}) == 1 and options["max_length"] == 6
            batches.append(len(rows))
            found = [SimpleNamespace(sequences_ids=[[len(row), int(row[0])]], scores=[-1.0]) for row in rows]
            return [SimpleNamespace(result=lambda one=one: one) for one in found]

    rows = [[9, 9], [8], *[[index, 0] for index in range(20)], [7]]
    found = ctranslate2.search(Generator(), rows, BeamSettings(ENDS, beam=2, eval_len=6), 1.0)
    assert batches == [2, 8, 8, 5] and [text.ids for text in found] == [(len(row), row[0]) for row in rows]


@pytest.mark.parametrize(
    ("model_type", "dtype", "settings", "found"),
    [
        ("llama", "fp32", {}, "a model of type 'llama'; need a GPT-2"),
        ("gpt2", "bf16", {}, "--dtype bf16; need fp32"),
        ("gpt2", "auto", {"repetition_penalty": 1.5}, r"--repetition_penalty 1\.5; need 1"),
    ],
)
def test_what_it_cannot_do_is_refused_first(
    monkeypatch: pytest.MonkeyPatch, model_type: str, dtype: str, settings: dict[str, Any], found: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace())
    ctranslate2.require("gpt2", BeamSettings(ENDS), "fp32")
    with pytest.raises(UserError, match=rf"^found --engine ctranslate2 and {found}, or leave out --engine$"):
        ctranslate2.require(model_type, BeamSettings(ENDS, **settings), dtype)


def test_it_has_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="no such package; need it installed; pip install ctranslate2, or leave out"):
        ctranslate2.require("gpt2", BeamSettings(ENDS), "fp32")


def test_texts_are_kept_as_they_come(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")
    kept: dict[int, Any] = {}
    said: list[tuple[int, int, int]] = []
    settings = BeamSettings(ENDS, beam=2, eval_len=4, min_length=4)
    done = ctranslate2.decode(model, prompts(3), settings, kept.update, lambda *now: said.append(now))
    assert [kept[index] for index in range(3)] == list(done.best) and said[-1][:2] == (3, 3)
    assert [text.ids for text in done.best] == [text.ids for text in decode(model, prompts(3), settings, 0).best]
