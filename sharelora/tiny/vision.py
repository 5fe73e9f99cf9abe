"""The tiny LLaVA: made pictures and what there is to say about them, how it learns to say it, and data to tune it on.

A picture is a shape in one colour on a ground of another. The model learns captions while it is made; tuning asks
questions, in the layouts of LLaVA's training data and of LLaVA-Bench.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LlavaConfig, PreTrainedModel, PreTrainedTokenizerFast

from sharelora.data.chat import NAMED
from sharelora.data.vision import IMAGE, Conversation, ConversationWriter, ImageTextCollator, image_reader
from sharelora.data.vision.batches import spread
from sharelora.data.vision.conversations import Turn
from sharelora.data.vision.images import require_pillow
from sharelora.data.vision.tokens import tokenise
from sharelora.support.files import write_text
from sharelora.tiny.objectives import Loss, Recipe
from sharelora.tiny.text import Document
from sharelora.tiny.world import COLOURS, World

if TYPE_CHECKING:
    from PIL import Image

SIDE, SHAPE_SIDE = 32, 16  # pixels
SHAPES = ("circle", "square", "triangle", "cross")
_RGB = {
    "red": (220, 30, 30), "blue": (30, 60, 220), "green": (30, 160, 50), "yellow": (240, 220, 40),
    "brown": (130, 80, 40), "white": (250, 250, 250), "black": (10, 10, 10), "grey": (128, 128, 128),
}  # fmt: skip
# What the tiny model learns to answer while it is made; tuning asks other questions.
DESCRIBE = ("Describe the picture.", "What is to be seen?", "Say what the picture shows.")
# Question -> the part of a scene that answers it.
QUESTIONS = {
    "What colour is the shape?": "colour",
    "Which shape is it?": "shape",
    "What colour is the ground?": "ground",
}


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    colour: str
    shape: str
    ground: str

    @property
    def caption(self) -> str:
        """The whole picture in words."""
        return f"a {self.colour} {self.shape} on a {self.ground} ground"


def read_caption(caption: str) -> Scene:
    """Return the scene that a caption is of."""
    _, colour, shape, _, _, ground, _ = caption.split()
    return Scene(colour, shape, ground)


def make_scene(rng: random.Random) -> Scene:
    """Make a scene whose shape can be told from its ground."""
    colour, ground = rng.sample(COLOURS, 2)
    return Scene(colour, rng.choice(SHAPES), ground)


def draw(scene: Scene, left: int, top: int) -> Image.Image:
    """Draw a scene.

    Args:
        scene: what is shown.
        left: pixels before the shape.
        top: pixels above it.
    """
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SIDE, SIDE), _RGB[scene.ground])
    pen, fill = ImageDraw.Draw(picture), _RGB[scene.colour]
    right, bottom, third = left + SHAPE_SIDE - 1, top + SHAPE_SIDE - 1, SHAPE_SIDE // 3
    match scene.shape:
        case "circle":
            pen.ellipse((left, top, right, bottom), fill=fill)
        case "square":
            pen.rectangle((left, top, right, bottom), fill=fill)
        case "triangle":
            pen.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=fill)
        case _:
            pen.rectangle((left + third, top, right - third, bottom), fill=fill)
            pen.rectangle((left, top + third, right, bottom - third), fill=fill)
    return picture


def random_position(rng: random.Random) -> tuple[int, int]:
    """Return the position of a shape: pixels from the left and from the top."""
    return rng.randint(0, SIDE - SHAPE_SIDE), rng.randint(0, SIDE - SHAPE_SIDE)


def caption_documents(world: World, rng: random.Random) -> Iterator[Document]:
    """Questions and captions without end, behind the words that every prompt begins with."""
    preamble = NAMED["vicuna"].partition("{%")[0] + "USER: ASSISTANT:"
    while True:
        yield preamble, rng.choice(DESCRIBE), make_scene(rng).caption


PATCH = 8  # pixels of a side
# Of the second to last layer of the vision tower, without its class token, as in LLaVA-1.5.
VIEW: dict[str, Any] = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
IMAGE_TOKENS = (SIDE // PATCH) ** 2
_NOWHERE = Path("made")


def llava_config(text: dict[str, Any], vision: dict[str, Any], image_token_id: int, **vocabulary: int) -> LlavaConfig:
    """Return the configuration of a LLaVA.

    Args:
        text: shape of its language model, a LLaMA.
        vision: shape of its vision tower, of CLIP.
        image_token_id: the token that an image takes the place of.
        vocabulary: the vocabulary's size and its special tokens.
    """
    return LlavaConfig(
        text_config={"model_type": "llama", **text, **vocabulary},
        vision_config={"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH, **vision},
        image_token_index=image_token_id,
        image_seq_length=IMAGE_TOKENS,
        **VIEW,
    )


def llava_processor(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return what prepares texts and images for the tiny LLaVA."""
    require_pillow()
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    size: dict[str, Any] = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return LlavaProcessor(
        LlavaImageProcessorPil(**size),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy=VIEW["vision_feature_select_strategy"],
        # The vision tower's class token, which is then left out again.
        num_additional_image_tokens=1,
    )


def caption_of_pictures(tokenizer: PreTrainedTokenizerFast, documents: Iterator[Document], recipe: Recipe) -> Loss:
    """Look at made pictures and predict their captions; every part of the model learns."""
    reader = image_reader(llava_processor(tokenizer))
    writer, collator = ConversationWriter(reader, "vicuna"), ImageTextCollator(reader, int(tokenizer.pad_token_id))
    rng = random.Random(recipe.steps)

    def item(question: str, caption: str) -> dict[str, Any]:
        turns = (Turn("user", f"{IMAGE}\n{question}"), Turn("assistant", caption))
        # The picture is drawn here; only how many there are matters to the text.
        [(ids, learnt)] = tokenise(writer, [Conversation("a made picture", (_NOWHERE,), turns)])
        picture = draw(read_caption(caption), *random_position(rng))
        return {**spread(reader, torch.tensor(ids), torch.tensor(learnt)), **reader.values([picture])}

    def loss(model: PreTrainedModel) -> Tensor:
        rows = [item(question, caption) for _, question, caption in itertools.islice(documents, recipe.rows)]
        return model(**collator(rows)).loss

    return loss


Row = dict[str, Any]
TRAIN_PICTURES, BENCH_PICTURES = 256, 16
_SEEDS = {"train": 21, "bench": 22}
# LLaVA-Bench's kinds of question, each asked of every picture here.
CATEGORIES = dict(zip(("conv", "detail", "complex"), QUESTIONS, strict=True))


def _pictures(folder: Path, count: int, seed: int) -> dict[str, Scene]:
    """Draw pictures; return their names and what they show."""
    rng, scenes = random.Random(seed), {}
    folder.mkdir(parents=True)
    for number in range(count):
        name, scene = f"{number:03}.png", make_scene(rng)
        draw(scene, *random_position(rng)).save(folder / name)
        scenes[name] = scene
    return scenes


def train_rows(scenes: dict[str, Scene]) -> list[Row]:
    """Two questions about each picture, one after the other, in LLaVA's json."""
    rng, rows = random.Random(_SEEDS["train"]), []
    for number, (name, scene) in enumerate(scenes.items()):
        first, second = rng.sample(tuple(QUESTIONS), 2)
        texts = [f"{IMAGE}\n{first}", getattr(scene, QUESTIONS[first]), second, getattr(scene, QUESTIONS[second])]
        turns = [{"from": ("human", "gpt")[position % 2], "value": text} for position, text in enumerate(texts)]
        rows.append({"id": f"{number:03}", "image": name, "conversations": turns})
    return rows


def bench_files(scenes: dict[str, Scene]) -> dict[str, list[Row]]:
    """LLaVA-Bench's three files: what is asked, what the pictures show, and the reference's answers."""
    cases = [(name, scene, *pair) for name, scene in scenes.items() for pair in CATEGORIES.items()]
    questions = [
        {"question_id": number, "image": name, "text": text, "category": category}
        for number, (name, _, category, text) in enumerate(cases)
    ]
    answers = [
        {"question_id": number, "text": getattr(scene, QUESTIONS[text]), "category": category}
        for number, (_, scene, category, text) in enumerate(cases)
    ]
    context = [{"id": number, "image": name, "caption": s.caption} for number, (name, s) in enumerate(scenes.items())]
    return {"questions": questions, "answers_gpt4": answers, "context": context}


def write_vision_tasks(folder: Path) -> None:
    """Write everything below a folder."""
    require_pillow()
    rows = train_rows(_pictures(folder / "llava", TRAIN_PICTURES, _SEEDS["train"]))
    write_text(folder / "llava" / "train.json", json.dumps(rows, indent=1) + "\n")
    bench = folder / "llava_bench"
    for name, lines in bench_files(_pictures(bench / "images", BENCH_PICTURES, _SEEDS["bench"])).items():
        write_text(bench / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
