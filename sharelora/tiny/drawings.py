"""Made pictures: a shape in one colour on a ground of another, and what there is to say about them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def place(rng: random.Random) -> tuple[int, int]:
    """Return where a shape stands: pixels from the left and from the top."""
    return rng.randint(0, SIDE - SHAPE_SIDE), rng.randint(0, SIDE - SHAPE_SIDE)


def caption_documents(world: World, rng: random.Random) -> Iterator[Document]:
    """Questions and captions without end, behind the words that every prompt begins with."""
    from sharelora.data.chat import NAMED

    preamble = NAMED["vicuna"].partition("{%")[0] + "USER: ASSISTANT:"
    while True:
        yield preamble, rng.choice(DESCRIBE), make_scene(rng).caption
