"""What a model can read is found in its configuration, as the model itself proves: it reads as much, and no more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_data import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from sharelora.data.context import Context
from sharelora.data.tokenise import padding_id
from sharelora.models.context import context_of
from sharelora.support.errors import UserError

_COMMON = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_ROPE = {**_COMMON, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_GPT = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
_OPT = {**_COMMON, "word_embed_proj_dim": 16, "ffn_dim": 32, "max_position_embeddings": 16}
_XGLM = {"d_model": 16, "num_layers": 1, "attention_heads": 2, "ffn_dim": 32, "max_position_embeddings": 16}
_NEO = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]}
_BLOOM = {"hidden_size": 16, "n_layer": 1, "n_head": 2, "seq_length": 16}
_JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 0, "expert_layer_period": 2, "num_experts": 2}

# Architecture, its shape, and whether its positions are a table of 16, computed for 16, or without an end.
DECODERS = [
    ("gpt2", _GPT, "table"),
    ("gptj", {**_GPT, "rotary_dim": 4}, "table"),
    ("codegen", {**_GPT, "n_head": 4, "rotary_dim": 4}, "table"),
    ("gpt_bigcode", _GPT, "table"),
    ("ctrl", {**_GPT, "dff": 32}, "table"),
    ("opt", _OPT, "table"),
    ("gpt_neo", {**_NEO, "max_position_embeddings": 16}, "table"),
    ("biogpt", _ROPE, "table"),
    ("mpt", {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 16}, "table"),
    ("llama", _ROPE, "computed"),
    ("gpt_neox", _ROPE, "computed"),
    ("falcon", {**_COMMON, "max_position_embeddings": 16}, "computed"),
    ("xglm", _XGLM, "computed"),
    ("jamba", {**_ROPE, **_JAMBA, "num_key_value_heads": 2, "use_mamba_kernels": False}, "computed"),
    ("falcon", {**_COMMON, "max_position_embeddings": 16, "alibi": True}, "endless"),
    ("bloom", _BLOOM, "endless"),
    ("mamba", {"hidden_size": 16, "num_hidden_layers": 1}, "endless"),
]
ENCODERS = ["bert", "camembert", "data2vec-text", "distilbert", "ibert", "mpnet", "roberta", "xlm-roberta"]


def reads(model: Any, tokens: int) -> bool:
    ids = torch.full((1, tokens), 5)
    try:
        with torch.no_grad():
            model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.filterwarnings("ignore")  # of kernels that Jamba would rather have
@pytest.mark.parametrize(("kind", "shape", "positions"), DECODERS)
def test_a_model_reads_what_its_configuration_allows(kind: str, shape: dict[str, Any], positions: str) -> None:
    config = AutoConfig.for_model(kind, vocab_size=64, **shape)
    context = context_of(config)
    assert context == Context(None if positions == "endless" else 16, positions == "table", 64)
    model = AutoModelForCausalLM.from_config(config)
    assert reads(model, 16)
    assert reads(model, 17) == (positions != "table")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_counts_positions_from_where_it_does(kind: str) -> None:
    config = AutoConfig.for_model(kind, vocab_size=64, max_position_embeddings=20)
    shape = {**_COMMON, "dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 1}
    for name, value in shape.items():
        if hasattr(config, name):
            setattr(config, name, value)
    limit = context_of(config).tokens
    assert limit == (20 if kind in ("bert", "distilbert") else 20 - config.pad_token_id - 1)
    model = AutoModelForSequenceClassification.from_config(config)
    assert reads(model, limit)
    assert not reads(model, limit + 1)


def test_relative_positions_have_no_end() -> None:
    assert context_of(AutoConfig.for_model("t5")).tokens is None
    assert context_of(AutoConfig.for_model("deberta-v2", position_biased_input=False)).tokens is None
    assert context_of(AutoConfig.for_model("xlnet")).tokens is None


def test_of_a_model_that_sees_the_language_model_is_read() -> None:
    config = AutoConfig.for_model("llava", text_config={**_ROPE, "model_type": "llama", "vocab_size": 99})
    assert context_of(config) == Context(16, False, 99)


def test_tokens_without_an_embedding_are_refused() -> None:
    tokenizer = byte_tokenizer()
    known = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    context = Context(vocabulary=known)
    context.require_embeddings(tokenizer, [[known - 1], []], "2 rows")
    Context().require_embeddings(tokenizer, [[10**6]], "1 row")
    with pytest.raises(UserError) as error:
        context.require_embeddings(tokenizer, [[5], [3, known, 4]], "2 train rows")
    message = str(error.value)
    assert f"1 of the 2 train rows have tokens without an embedding, first '<new>' with id {known}" in message
    assert f"the tokenizer knows {known + 1:,} tokens, the model {known:,}" in message


def test_padding_needs_an_embedding_too() -> None:
    tokenizer = byte_tokenizer()
    known = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert padding_id(tokenizer) == tokenizer.pad_token_id == known
    assert padding_id(tokenizer, Context(vocabulary=known)) == tokenizer.eos_token_id
