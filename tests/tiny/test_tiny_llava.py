"""The tiny LLaVA and its made pictures: a model folder that transformers reads, and data in LLaVA's layouts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from sharelora.data.vision import image_reader, read_conversations, require_images
from sharelora.data.vision.bench import CONTEXT, REFERENCES, read_answers, read_captions, read_questions
from sharelora.models.vision import load_processor, load_vision_base
from sharelora.support.files import sha256
from sharelora.tiny import ensure_tiny, tiny_vision_data
from sharelora.tiny.cache import MODEL_FILES
from sharelora.tiny.vision import QUESTIONS, SHAPES, Scene, draw, make_scene, random_position, read_caption


def quiet(done: int, total: int) -> None:
    """No progress line."""


@pytest.fixture(scope="module")
def sketch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_tiny("llava", tmp_path_factory.mktemp("cache"), steps=1, progress=quiet)


def test_it_is_a_llava_that_looks(sketch: Path) -> None:
    model, reader = load_vision_base(str(sketch)), image_reader(load_processor(str(sketch)))
    assert model.config.model_type == "llava" and model.config.image_token_id == reader.token_id
    ids = torch.full((1, reader.count), reader.token_id)
    seen = [
        model(input_ids=ids, **reader.values([draw(Scene(colour, "circle", "grey"), 8, 8)])).logits
        for colour in ("red", "blue")
    ]
    assert seen[0].isfinite().all() and not torch.allclose(*seen)


def test_the_same_seed_gives_the_same_bytes(sketch: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    again = ensure_tiny("llava", tmp_path, steps=1, progress=quiet)
    assert {name: sha256(again / name) for name in MODEL_FILES} == {name: sha256(sketch / name) for name in MODEL_FILES}


def test_a_picture_shows_its_scene() -> None:
    rng = random.Random(0)
    for _ in range(50):
        scene = make_scene(rng)
        assert read_caption(scene.caption) == scene and scene.colour != scene.ground
        assert len(draw(scene, *random_position(rng)).getcolors() or []) == 2
    shapes = {draw(Scene("red", shape, "blue"), 8, 8).tobytes() for shape in SHAPES}
    assert len(shapes) == len(SHAPES)


def test_the_data_have_llavas_layouts(tmp_path: Path) -> None:
    folder = tiny_vision_data(tmp_path)
    records = read_conversations(folder / "llava" / "train.json")
    require_images(records)
    assert len(records) == 256 and all(len(record.turns) == 4 for record in records)
    bench = folder / "llava_bench"
    questions = read_questions(bench)
    answers, captions = read_answers(bench / REFERENCES, questions), read_captions(bench / CONTEXT, questions)
    assert len(questions) == 48 and {question.category for question in questions} == {"conv", "detail", "complex"}
    for question in questions:
        scene = read_caption(captions[question.image])
        assert answers[question.number] == getattr(scene, QUESTIONS[question.text])
    assert Image.open(records[0].images[0]).size == (32, 32)
