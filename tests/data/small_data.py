"""Small tokenizers and rows of the kinds that matter, made in the test itself."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\nName three fruits.\n\n### Response: apples, pears and plums",
    "Question: How many apples are 2 + 3?\n\nAnswer: 2 + 3 = 5. The final answer is 5",
    "if a != b: print('hi!')",
]


def byte_tokenizer(bos: str | None = "<s>", eos: str | None = "</s>", pad: str | None = None) -> Any:
    """A byte-level BPE tokenizer, as GPT-2's and Llama-3's: any text is spelled without an unknown token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = [token for token in dict.fromkeys((bos, eos, pad)) if token]
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad)


def metaspace_tokenizer() -> Any:
    """A SentencePiece-like tokenizer, as LLaMA's: it writes a space before every text."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def alpaca_rows(count: int) -> list[dict[str, str]]:
    """Rows in Alpaca's columns, all different, of different lengths."""
    return [
        {"instruction": f"Count to {n}.", "input": "now" if n % 2 else "", "output": " ".join(map(str, range(n % 17)))}
        for n in range(count)
    ]
