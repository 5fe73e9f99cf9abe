"""Every engine hands the head rows of two dimensions, and only the positions whose logits it uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from toy import LETTERS, make_items, make_model, make_tokenizer

from sharelora import ShareLoraConfig
from sharelora.evaluation import multiple_choice
from sharelora.evaluation.beam.decoding import decode
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.generation.engine import generate
from sharelora.evaluation.generation.settings import GenerationSettings, Prompt
from sharelora.evaluation.key_value_cache import PromptReader
from sharelora.evaluation.likelihood import prepare_answers, score_answers
from sharelora.evaluation.multiple_choice import score
from sharelora.evaluation.tokens import Item

ROWS = 3
TEXTS = ("fox", "the apple and the plum of iron", "tin or coat")


def choice(model: Any) -> Any:
    return score(model, make_tokenizer(), make_items(6), ROWS)


def likelihood(model: Any) -> Any:
    answers = (" fox and tin", " fox and wolf", " plum")
    items = [Item("which is ", text, answers) for text in TEXTS]
    return score_answers(model, prepare_answers(make_tokenizer(), items), ROWS)


def generation(model: Any) -> Any:
    prompts = [Prompt("which is ", text) for text in TEXTS]
    return generate(model, make_tokenizer(), prompts, GenerationSettings(4), ROWS)


def beams(model: Any) -> Any:
    prompts = [make_tokenizer()(text)["input_ids"] for text in TEXTS[: ROWS // 2]]
    return decode(model, prompts, BeamSettings((1,), beam=2, eval_len=4), 2, ROWS)


ENGINES: list[Callable[[Any], Any]] = [choice, likelihood, generation, beams]


def head_shapes(model: Any, engine: Callable[[Any], Any]) -> set[torch.Size]:
    seen: set[torch.Size] = set()
    handle = model.get_output_embeddings().register_forward_hook(lambda _, inputs, output: seen.add(output.shape))
    engine(model)
    handle.remove()
    return seen


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "whole"])
def test_no_engine_makes_the_logits_of_all_positions(
    engine: Callable[[Any], Any], cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = get_peft_model(make_model(), ShareLoraConfig(r=2, share="a", target_modules=["q_proj", "down_proj"])).eval()
    if not cached:
        accepted = PromptReader.__init__

        def without_cache(self: Any, model: Any) -> None:
            accepted(self, model)
            self.accepted -= {"past_key_values"}

        monkeypatch.setattr(PromptReader, "__init__", without_cache)
    seen = head_shapes(model, engine)
    assert {len(shape) for shape in seen} == {2}, (
        "three dimensions may be multiplied in a batch, with copies of a weight"
    )
    assert max(rows for rows, _ in seen) <= ROWS and {vocabulary for _, vocabulary in seen} == {330}
    # A beginning that prompts share needs no logits.
    assert (0 in {rows for rows, _ in seen}) == (cached and engine is not beams)


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_virtual_tokens_before_a_prompt_need_no_logits() -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(make_model(), config).eval()
    assert max(rows for rows, _ in head_shapes(model, choice)) == ROWS


def test_a_batch_has_no_more_rows_than_a_chunk_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiple_choice, "chunk_rows", lambda vocabulary: 2)
    items = [Item("which is ", text, LETTERS) for text in TEXTS]
    assert score(make_model(), make_tokenizer(), items).batch_size == 2
