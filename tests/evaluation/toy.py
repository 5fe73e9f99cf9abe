"""Small random models and a word tokenizer for the engine's tests."""

from __future__ import annotations

import random
import re
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from sharelora.data.questions import PROMPTS, Question
from sharelora.evaluation.tokens import Item

WORDS = "fox wolf apple plum hammer saw coat hat drum flute iron tin".split()
LETTERS = (" A", " B", " C", " D")


def make_tokenizer(text: str = "", size: int = 330) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer in which the letters with their spaces are single tokens if `text` teaches them."""
    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([text or "Answer: A B C D which is " + " ".join(WORDS)] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def make_tokenizer_of_parts(parts: dict[str, int]) -> PreTrainedTokenizerFast:
    """A tokenizer that cuts text into the longest of the given parts."""
    vocabulary = {"<s>": 0, "</s>": 1, "<pad>": 2, **parts}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    pattern = "|".join(sorted(map(re.escape, parts), key=len, reverse=True))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def make_model(kind: str = "llama", context: int = 256, size: int = 330) -> Any:
    """A random model whose answers differ much between prompts."""
    torch.manual_seed(1)
    shape = dict(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, bos_token_id=0)
    wide = dict(intermediate_size=64, num_key_value_heads=2, max_position_embeddings=context, eos_token_id=1)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=context, bos_token_id=0)
        model: Any = GPT2LMHeadModel(config)
    elif kind == "sliding":
        model = MistralForCausalLM(MistralConfig(**shape, **wide, sliding_window=24))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape, **wide))
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 2:
                value.normal_(std=0.3)
    return model.eval()


def make_items(count: int = 21, subjects: int = 3, shots: int = 2) -> list[Item]:
    """Questions of several subjects and very different lengths, in a mixed order."""
    rng = random.Random(0)
    prompt = PROMPTS["qlora"]
    prefixes = [prompt.prefix(f"subject_{n}", [_question(rng) for _ in range(shots)]) for n in range(subjects)]
    return [
        Item(prefixes[index % subjects], prompt.item(_question(rng)), LETTERS, f"subject_{index % subjects}")
        for index in range(count)
    ]


def _question(rng: random.Random) -> Question:
    text = "Which is " + " ".join(rng.choices(WORDS, k=rng.randint(1, 8))) + "?"
    return Question("subject", text, tuple(rng.sample(WORDS, 4)), rng.choice("ABCD"))
