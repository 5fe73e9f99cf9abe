"""Models that keep states rather than keys and values: every engine gives what the plain way gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy import make_items, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from sharelora.evaluation.beam.decoding import decode
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.generation.engine import generate
from sharelora.evaluation.generation.settings import GenerationSettings, Prompt
from sharelora.evaluation.key_value_cache import PromptReader
from sharelora.evaluation.multiple_choice import score
from sharelora.evaluation.reference import generate_one_by_one, reference_search, score_one_by_one

SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
STATES = {**SPECIAL, "hidden_size": 32, "num_hidden_layers": 2}
LLAMA = {
    **STATES, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}  # fmt: skip
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
LINEAR = {f"linear_num_{part}_heads": 2 for part in ("key", "value")} | {
    f"linear_{part}_head_dim": 8 for part in ("key", "value")
}
JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2}
MIXED = {"layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 16, "head_dim": 8}
# Architecture, its shape, and whether padding in front of a text changes nothing.
KINDS: list[tuple[str, dict[str, Any], bool]] = [
    ("mamba", STATES, True),
    ("falcon_mamba", STATES, True),
    ("mamba2", {**STATES, "num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 16}, True),
    ("rwkv", {**STATES, "attention_hidden_size": 32, "intermediate_size": 64, "context_length": 512}, False),
    ("recurrent_gemma", {**LLAMA, "num_hidden_layers": 3, "attention_window_size": 64, "lru_width": 32}, False),
    ("jamba", {**LLAMA, **JAMBA, "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4}, True),
    ("qwen3_next", {**LLAMA, **EXPERTS, **LINEAR, **MIXED}, True),
    ("lfm2", {**LLAMA, "layer_types": ["conv", "full_attention"]}, True),
    ("bloom", {**SPECIAL, "hidden_size": 32, "n_layer": 2, "n_head": 4}, True),
    ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}, True),
]


@pytest.fixture(scope="module", params=KINDS, ids=[kind for kind, _, _ in KINDS])
def case(request: pytest.FixtureRequest) -> tuple[Any, bool]:
    """A small random model, and whether it can be padded on the left."""
    kind, shape, pads = request.param
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=330, **shape))
    return model.float().eval(), pads


def test_the_scores_are_those_of_one_prompt_after_the_other(case: tuple[Any, bool]) -> None:
    model, tokenizer, items = case[0], make_tokenizer(), make_items(6)
    batched, plain = score(model, tokenizer, items), score_one_by_one(model, tokenizer, items)
    for one, other in zip(batched.choices, plain.choices, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    # Only a model that continues from keys and values reads a common beginning once.
    kept = model.config.model_type in ("bloom", "mpt")
    assert batched.whole == (0 if kept else len(items))


def test_texts_are_those_of_one_token_after_the_other(case: tuple[Any, bool]) -> None:
    model, tokenizer, settings = case[0], make_tokenizer(), GenerationSettings(5)
    prompts = [Prompt("which is ", text) for text in ("fox", "the apple and the plum of iron", "tin or coat")]
    texts = [text.text for text in generate(model, tokenizer, prompts, settings)]
    assert texts == [text.text for text in generate_one_by_one(model, tokenizer, prompts, settings)]


def test_a_beam_search_is_that_of_the_reference(case: tuple[Any, bool]) -> None:
    model, tokenizer = case[0], make_tokenizer()
    search = BeamSettings((1,), beam=2, eval_len=4, no_repeat_ngram_size=2)
    prompts = [tokenizer(text)["input_ids"] for text in ("fox", "the apple and the plum", "tin or coat")]
    found = decode(model, prompts, search, 2).best
    for one, prompt in zip(found, prompts, strict=True):
        expected = reference_search(model, prompt, search)
        assert one.ids == expected.ids and one.score == pytest.approx(expected.score, abs=1e-4)


def test_padding_in_front_of_a_text(case: tuple[Any, bool]) -> None:
    model, pads = case
    assert PromptReader(model).can_pad_left([5, 6, 7]) == pads
