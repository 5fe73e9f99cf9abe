"""The tiny RoBERTa: a model folder that transformers reads as RoBERTa, whose text is hidden as it should be."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification
from transformers.utils import logging

from sharelora.data.glue import TASKS, GlueCollator, encode
from sharelora.models.load import load_tokenizer
from sharelora.tiny import cache, ensure_tiny
from sharelora.tiny.objectives import CHOSEN, IGNORED, MASKED, REPLACED, hide

STEPS = 2


@pytest.fixture(scope="module")
def sketch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_tiny("roberta", tmp_path_factory.mktemp("cache"), steps=STEPS, progress=lambda done, total: None)


@pytest.fixture(scope="module")
def tokenizer(sketch: Path) -> Any:
    return load_tokenizer(str(sketch))


def test_it_is_a_roberta_with_its_names(sketch: Path) -> None:
    logging.set_verbosity_error()
    model: Any = AutoModelForSequenceClassification.from_pretrained(sketch, num_labels=3)
    logging.set_verbosity_warning()
    assert model.config.model_type == "roberta" and model.base_model_prefix == "roberta"
    names = dict(model.named_parameters())
    assert names["roberta.encoder.layer.3.attention.self.query.weight"].shape == (128, 128)
    assert names["classifier.dense.weight"].shape == (128, 128) and names["classifier.out_proj.weight"].shape == (
        3,
        128,
    )
    pretrained: Any = AutoModelForMaskedLM.from_pretrained(sketch)
    same = pretrained.roberta.encoder.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.roberta.encoder.state_dict().items())


def test_texts_are_written_as_robertas(tokenizer: Any) -> None:
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    first, second = (tokenizer.encode(text, add_special_tokens=False) for text in ("The fox", "was red."))
    assert tokenizer("The fox")["input_ids"] == [0, *first, 2]
    assert tokenizer("The fox", "was red.")["input_ids"] == [0, *first, 2, 2, *second, 2]
    assert (tokenizer.unk_token_id, tokenizer.mask_token_id) == (3, 4)
    assert "token_type_ids" not in tokenizer.model_input_names


def test_the_longest_row_fits_and_padding_changes_nothing(sketch: Path, tokenizer: Any) -> None:
    model: Any = AutoModelForMaskedLM.from_pretrained(sketch).eval()
    assert model.config.max_position_embeddings - model.config.pad_token_id - 1 == tokenizer.model_max_length == 512
    with torch.no_grad():
        assert model(torch.full((1, 512), 5)).logits.isfinite().all()
        rows = [{"sentence1": "a", "sentence2": "The fox is red. " * 3}, {"sentence1": "b", "sentence2": "c"}]
        items, _ = encode(rows, TASKS["rte"], tokenizer, 64)
        both, alone = (GlueCollator(tokenizer.pad_token_id)(part) for part in ([items[0], items[1]], [items[1]]))
        torch.testing.assert_close(model(**both).logits[1, : items.lengths[1]], model(**alone).logits[0])


def test_tokens_are_hidden_in_their_proportions_and_special_ones_never(tokenizer: Any) -> None:
    ids = torch.randint(260, 300, (40, 500))
    ids[:, 0], ids[:, -1] = tokenizer.bos_token_id, tokenizer.pad_token_id
    shown, labels = hide(ids, tokenizer)
    chosen = labels != IGNORED
    assert torch.equal(labels[chosen], ids[chosen]) and not chosen[:, [0, -1]].any()
    assert torch.equal(shown[~chosen], ids[~chosen])
    assert chosen.float().mean().item() == pytest.approx(CHOSEN, abs=0.02)
    masked = shown == tokenizer.mask_token_id
    assert (masked.sum() / chosen.sum()).item() == pytest.approx(MASKED, abs=0.02)
    replaced = (shown != ids) & ~masked
    # One replacement in 40 is by chance the token itself.
    assert (replaced.sum() / chosen.sum()).item() == pytest.approx(REPLACED * 39 / 40, abs=0.02)
    assert not torch.isin(shown[replaced], torch.tensor(tokenizer.all_special_ids)).any()


# What tiny modules import from `sharelora.data` and their texts and files do not depend on: batches, reading of images.
PLUMBING = {f"sharelora.data.{name}" for name in ("token_rows", "vision", "vision.batches", "vision.images")}


def test_every_module_of_data_that_shapes_texts_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    trees = (ast.parse(file.read_text("utf-8")) for file in Path(cache.__file__).parent.glob("*.py"))
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported = {node.module for node in nodes if node.module and node.module.startswith("sharelora.data.")}
    shaping = {module.__name__: module.__file__ for module in cache.SHAPING_MODULES}
    assert len(imported) > 5 and imported - PLUMBING - {"sharelora.data.glue", "sharelora.data.nlg"} <= set(shaping)
    before, read = cache._key("data"), Path.read_bytes
    for changed in (*shaping.values(), cache.__file__):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda path, changed=changed: read(path) + b"#" * (str(path) == changed))
            assert cache._key("data") != before
    assert cache._key("data") == before
