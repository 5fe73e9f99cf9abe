"""The tiny models' shapes, tokens and training: a new kind is a new entry."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from sharelora.data.vision import IMAGE
from sharelora.support.errors import UserError
from sharelora.tiny.nlg import decoder_documents
from sharelora.tiny.objectives import Objective, Recipe, masked_token, next_token, next_token_of_rows
from sharelora.tiny.scenes import encoder_documents
from sharelora.tiny.text import Document, documents
from sharelora.tiny.vision import caption_documents, caption_of_pictures, llava_config, llava_processor
from sharelora.tiny.world import World

BOS, EOS, PAD, UNK, MASK = "<s>", "</s>", "<pad>", "<unk>", "<mask>"
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Tokens:
    """A kind's special tokens.

    Args:
        roles: role -> token, as the tokenizer's class takes them; their ids are in this order.
        single: how one text is written.
        pair: how two texts are written.
        longest: most tokens of a row.
        others: special tokens without a role.
    """

    roles: dict[str, str]
    single: str
    pair: str
    longest: int
    others: tuple[str, ...] = ()

    @property
    def special(self) -> tuple[str, ...]:
        """Every special token once, in the order of ids."""
        return tuple(dict.fromkeys((*self.roles.values(), *self.others)))


LLAMA_TOKENS = Tokens(
    {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}, f"{BOS} $A", f"{BOS} $A {BOS} $B", longest=1024
)
LLAVA_TOKENS = replace(LLAMA_TOKENS, others=(IMAGE,))
# RoBERTa's own writing, and its order of ids: positions count from the padding token's id on.
ROBERTA_TOKENS = Tokens(
    {
        **{"bos_token": BOS, "pad_token": PAD, "eos_token": EOS, "unk_token": UNK},
        **{"cls_token": BOS, "sep_token": EOS, "mask_token": MASK},
    },
    f"{BOS} $A {EOS}",
    f"{BOS} $A {EOS} {EOS} $B {EOS}",
    longest=512,
)
# As in GPT-2, one token comes before, between and after texts; there is no padding token.
GPT2_TOKENS = Tokens(
    {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}, "$A", "$A $B", longest=1024
)


def _itself(tokenizer: PreTrainedTokenizerFast) -> Any:
    return tokenizer


@dataclass(frozen=True)
class Architecture:
    """A kind of model.

    Args:
        config: the configuration's class.
        model: the class of the model that is trained.
        shape: the configuration's values, without vocabulary and special tokens.
        recipe: how it is trained.
        tokens: its special tokens.
        objective: what it learns.
        reads: world, random source -> endless documents.
        prepares: tokenizer -> what is saved with the model: the tokenizer itself, or a processor that has it.
    """

    config: Callable[..., PretrainedConfig]
    model: type[PreTrainedModel]
    shape: dict[str, Any]
    recipe: Recipe = field(default_factory=Recipe)
    tokens: Tokens = LLAMA_TOKENS
    objective: Objective = next_token
    reads: Callable[[World, random.Random], Iterator[Document]] = documents
    prepares: Callable[[PreTrainedTokenizerFast], Any] = _itself


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        LlamaConfig,
        LlamaForCausalLM,
        {
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            # About 1 / sqrt(hidden): with the usual 0.02 a model this narrow learns nothing in its few steps.
            "initializer_range": 0.08,
        },
    ),
    "roberta": Architecture(
        RobertaConfig,
        RobertaForMaskedLM,
        {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            # The positions of tokens start after the padding token's id, 1.
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "initializer_range": 0.08,
        },
        # Its norms come after each block, so it needs a longer warm-up: at 20 steps and 3e-3 it learnt nothing more.
        Recipe(steps=300, rows=48, length=64, learning_rate=2e-3, warmup=80),
        ROBERTA_TOKENS,
        masked_token,
        encoder_documents,
    ),
    "gpt2": Architecture(
        GPT2Config,
        GPT2LMHeadModel,
        {
            "n_embd": 128,
            "n_layer": 4,
            "n_head": 4,
            "n_positions": 1024,
            "initializer_range": 0.08,
        },
        Recipe(steps=200, rows=32, length=96),
        GPT2_TOKENS,
        next_token_of_rows,
        decoder_documents,
    ),
    "llava": Architecture(
        llava_config,
        LlavaForConditionalGeneration,
        {
            "text": {
                "hidden_size": 128,
                "intermediate_size": 320,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 1024,
                "initializer_range": 0.08,
            },
            "vision": {
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "projection_dim": 64,
            },
            "image_token_id": LLAVA_TOKENS.special.index(IMAGE),
        },
        Recipe(steps=240, rows=16),
        LLAVA_TOKENS,
        caption_of_pictures,
        caption_documents,
        llava_processor,
    ),
}


def architecture(kind: str) -> Architecture:
    """Return a kind of tiny model.

    Raises:
        UserError: unknown name.
    """
    if kind not in ARCHITECTURES:
        raise UserError(f"found tiny model {kind}; need one of {', '.join(ARCHITECTURES)}; change the name")
    return ARCHITECTURES[kind]
