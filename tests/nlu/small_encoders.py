"""Small random encoders and small GLUE folders, whose labels can be learned from single words."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

Run = Callable[..., dict[str, Any]]  # runs the job with more flags and returns its metrics

GOOD, BAD = "red blue green big".split(), "cold dark thin slow".split()
OTHERS = "the a dog cat bird sees likes one two three small".split()
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "max_position_embeddings": 66,
}
_DISTILBERT = {
    "dim": 32,
    "hidden_dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 66,
    "initializer_range": 0.3,
}
SHAPES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "electra", "roberta"), _SHAPE),
    "deberta-v2": {
        **_SHAPE, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    },
    "distilbert": _DISTILBERT,
}  # fmt: skip


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Write a tokenizer of whole words that puts <s> and </s> around texts, as RoBERTa's does."""
    words = [*SPECIAL, *GOOD, *BAD, *OTHERS]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>", model_max_length=64, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    made.save_pretrained(str(folder))
    return made


def write_encoder(folder: Path, kind: str = "roberta", seed: int = 0, masked: bool = True, **settings: Any) -> Path:
    """Write a random encoder as it is published: with a masked language model's head, or bare."""
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(seed)
    facts = {**SHAPES[kind], "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **settings}
    config = transformers.AutoConfig.for_model(kind, **facts)
    made = transformers.AutoModelForMaskedLM if masked else transformers.AutoModel
    model = made.from_config(config)
    with torch.no_grad():
        # Words must differ from the start, for a small adapter to tell them apart.
        model.get_input_embeddings().weight.normal_(0, 1)
    model.save_pretrained(str(folder))
    return folder


def text(rng: random.Random, good: bool) -> str:
    """Return a few words, one of which says the label."""
    words = rng.choices(OTHERS, k=rng.randint(2, 7))
    words.insert(rng.randint(0, len(words)), rng.choice(GOOD if good else BAD))
    return " ".join(words)


def write_rows(path: Path, rows: list[tuple[Any, ...]]) -> None:
    """Write tab-separated rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def _cola(rng: random.Random, count: int) -> list[tuple[Any, ...]]:
    return [("src", int(good), "", text(rng, good)) for good in (rng.random() < 0.6 for _ in range(count))]


def _sst2(rng: random.Random, count: int) -> list[tuple[Any, ...]]:
    goods = (rng.random() < 0.5 for _ in range(count))
    return [("sentence", "label"), *((text(rng, good), int(good)) for good in goods)]


def _rte(rng: random.Random, count: int) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [("index", "sentence1", "sentence2", "label")]
    for index in range(count):
        good = rng.random() < 0.5
        rows.append((index, text(rng, good), text(rng, True), "entailment" if good else "not_entailment"))
    return rows


def _mrpc(rng: random.Random, count: int) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")]
    for index in range(count):
        good = rng.random() < 0.6
        rows.append((int(good), index, index, text(rng, good), text(rng, good)))
    return rows


def _stsb(rng: random.Random, count: int) -> list[tuple[Any, ...]]:
    header = (*"index genre filename year old_index source1 source2 sentence1 sentence2 score".split(),)
    rows: list[tuple[Any, ...]] = [header]
    for index in range(count):
        good = rng.random() < 0.5
        score = 4.0 + rng.random() if good else rng.random()
        rows.append((index, "g", "f", "2012", index, "s", "s", text(rng, good), text(rng, good), f"{score:.3f}"))
    return rows


def _mnli(rng: random.Random, count: int) -> list[tuple[Any, ...]]:
    names = ("entailment", "neutral", "contradiction")
    rows: list[tuple[Any, ...]] = [("index", "sentence1", "sentence2", "gold_label")]
    for index in range(count):
        label = rng.randrange(3)
        rows.append((index, text(rng, label == 0), text(rng, label != 2), names[label]))
    return rows


_MAKERS = {"CoLA": _cola, "SST-2": _sst2, "RTE": _rte, "MRPC": _mrpc, "STS-B": _stsb}


def _without_label(rows: list[tuple[Any, ...]], task: str) -> list[tuple[Any, ...]]:
    if task == "CoLA":
        return [("index", "sentence"), *((index, row[3]) for index, row in enumerate(rows))]
    header = rows[0]
    keep = [place for place, name in enumerate(header) if name not in ("label", "Quality", "score", "gold_label")]
    lines = [tuple(row[place] for place in keep) for row in rows]
    if "index" in header:
        return lines
    return [("index", *lines[0]), *((index, *line) for index, line in enumerate(lines[1:]))]


def write_glue(root: Path, train: int = 120, dev: int = 40, test: int = 12) -> Path:
    """Write tasks in the layout of the official files; return the folder for SHARELORA_DATA."""
    for task, make in _MAKERS.items():
        rng = random.Random(task)
        folder = root / "glue" / task
        write_rows(folder / "train.tsv", make(rng, train))
        write_rows(folder / "dev.tsv", make(rng, dev))
        write_rows(folder / "test.tsv", _without_label(make(rng, test), task))
    rng, folder = random.Random("mnli"), root / "glue" / "MNLI"
    for name, count in (("train", train), ("dev_matched", dev), ("dev_mismatched", dev // 2)):
        write_rows(folder / f"{name}.tsv", _mnli(rng, count))
    for name in ("test_matched", "test_mismatched"):
        write_rows(folder / f"{name}.tsv", _without_label(_mnli(rng, test), "MNLI"))
    return root
