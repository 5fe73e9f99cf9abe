"""The tiny GPT-2 and its data: read by the project's own readers, and never telling the model what tuning teaches."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from sharelora.data.nlg import grouped, load_nlg
from sharelora.data.nlg.linearise import linearise_triples
from sharelora.models.load import load_base, load_tokenizer
from sharelora.tiny import ensure_tiny
from sharelora.tiny.architectures import ARCHITECTURES
from sharelora.tiny.build import make_tokenizer
from sharelora.tiny.nlg import (
    ATTRIBUTES,
    E2E_SIZES,
    PROPERTIES,
    TRIPLE_SIZES,
    UNSEEN_SIZE,
    dealt,
    decoder_documents,
    describe,
    restaurant,
    triples,
    write_nlg,
)
from sharelora.tiny.objectives import next_token_of_rows
from sharelora.tiny.world import make_world

BOTH = ("dart", "webnlg")
SPLITS = {"train": "train", "valid": "dev", "test": "test"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    write_nlg(made, make_world())
    return made


def inputs(folder: Path, name: str, split: str) -> list[str]:
    return [group.context for group in grouped(load_nlg(name, split, folder))]


@pytest.mark.parametrize("name", ["e2e", "webnlg", "dart"])
def test_a_set_is_found_by_its_name_and_no_input_is_in_two_splits(folder: Path, name: str) -> None:
    found = {split: inputs(folder, name, split) for split in SPLITS}
    sizes = E2E_SIZES if name == "e2e" else TRIPLE_SIZES
    for split, word in SPLITS.items():
        more = UNSEEN_SIZE if (name, split) == ("webnlg", "test") else 0
        assert len(found[split]) == sizes[word] + more
        assert all(len(group.references) >= 2 for group in grouped(load_nlg(name, split, folder)))
    assert len({text for texts in found.values() for text in texts}) == sum(map(len, found.values()))


def test_a_description_says_every_attribute(folder: Path) -> None:
    world, rng = make_world(), random.Random(0)
    for _ in range(200):
        place = restaurant(world, rng)
        assert 4 <= len(place) <= 7 and list(place) == [name for name in ATTRIBUTES if name in place]
        for way in range(3):
            text = describe(place, way)
            said = {**place, "familyFriendly": "family friendly"} if "familyFriendly" in place else place
            assert all(value in text for value in said.values()), text
            assert ("not family friendly" in text) is (place.get("familyFriendly") == "no")
            assert "{" not in text and "  " not in text and text[0].isupper() and text.endswith(".")


def test_webnlg_has_categories_in_test_that_train_lacks(folder: Path) -> None:
    seen = {split: {record.seen for record in load_nlg("webnlg", split, folder)} for split in SPLITS}
    assert seen == {"train": {True}, "valid": {True}, "test": {True, False}}
    texts = [record.completion for record in load_nlg("webnlg", "train", folder)]
    assert 'comment="toFix"' in (folder / "webnlg_challenge_2017/train/train.xml").read_text()
    assert not any(" kind colour" in text for text in texts), "texts that were not checked are left out"


def test_dart_and_webnlg_are_about_different_inputs() -> None:
    world = make_world()
    found = {
        name: {linearise_triples(triples(world, *given)) for given in dealt(name)["test"]}
        for name in ("dart", "webnlg")
    }
    assert found["dart"] != found["webnlg"]
    assert dealt("dart") == dealt("dart")


def test_no_document_has_the_notation_of_a_data_set() -> None:
    words = [name for name in (*ATTRIBUTES, *PROPERTIES.values()) if not name.islower()]
    found = list(itertools.islice(decoder_documents(make_world(), random.Random(0)), 3000))
    assert len(words) == 6 and not any(word in text for document in found for text in document for word in words)
    lists = [document for document in found if len(document) == 2]
    # An input is a list of events alone; a restaurant is only ever described.
    assert 0.6 < len(lists) / len(found) < 0.8
    assert not any("eat" in first or "price" in first or "rating" in first for first, _ in lists)


def test_it_is_a_model_folder_with_one_special_token(tmp_path: Path) -> None:
    place = ensure_tiny("gpt2", tmp_path, steps=1, progress=lambda done, total: None)
    model, tokenizer = load_base(str(place)), load_tokenizer(str(place))
    assert model.config.model_type == "gpt2" and model.config.vocab_size == len(tokenizer)
    assert tokenizer.all_special_tokens == ["<|endoftext|>"]
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == tokenizer.pad_token_id == model.config.eos_token_id
    assert tokenizer.encode("name : The Red Fox") == tokenizer.encode("name : The Red Fox", add_special_tokens=False)


def test_rows_are_texts_with_their_ends_and_fill_is_not_learnt() -> None:
    made = ARCHITECTURES["gpt2"]
    tokenizer = make_tokenizer(made, made.recipe, make_world(), 0)
    rows: list[torch.Tensor] = []

    class Model:
        def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> object:
            rows.append(input_ids)
            # Certain of the right token, and of a wrong one at every filled place.
            right = torch.cat((input_ids[:, 1:], torch.full((2, 1), tokenizer.eos_token_id)), 1)
            logits = 100.0 * torch.nn.functional.one_hot(right, len(tokenizer)).float()
            logits[1, 4:] = 0
            return type("Output", (), {"logits": logits})

    documents = iter([("a : fox", " the fox"), (" red",)])
    recipe = type(made.recipe)(rows=2, length=50)
    loss = next_token_of_rows(tokenizer, documents, recipe)(Model())  # type: ignore[arg-type]
    end = tokenizer.eos_token_id
    first = [*tokenizer.encode("a : fox"), end, *tokenizer.encode(" the fox"), end]
    assert rows[0][0].tolist() == first[:-1]
    assert rows[0][1].tolist()[: len(tokenizer.encode(" red")) + 1] == [*tokenizer.encode(" red"), end]
    assert loss < 1e-6
