"""Images: found and opened, and what a model's processor makes of them.

A processor turns an image into values for the vision tower, and gives it a place among the tokens. An error about an
image names its row and its file.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sharelora.data.vision.conversations import Conversation
from sharelora.support.errors import UserError
from sharelora.support.text import one_line

if TYPE_CHECKING:
    from PIL import Image

_SHOWN = 3


def require_pillow() -> None:
    """Raise unless the package that reads images is installed.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise UserError("images need the package pillow, which is not installed; run pip install 'sharelora[vision]'")


def require_images(conversations: Sequence[Conversation]) -> None:
    """Check that every image exists and begins as an image does, before anything is loaded.

    Only the beginnings of the files are read, so one that was cut short is found when it is used.

    Raises:
        UserError: how many cannot be used, and the first of them with their rows.
    """
    require_pillow()
    known: dict[Path, str | None] = {}
    bad: list[str] = []
    for conversation in conversations:
        for path in conversation.images:
            if path not in known:
                known[path] = _fault(path)
            if known[path] is not None:
                bad.append(f"{conversation.name}: {path} {known[path]}")
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise UserError(
            f"found {len(bad)} images that cannot be used: {', '.join(bad[:_SHOWN])}{more}; need every image; put "
            "them there, pass --image_folder, or take the rows out"
        )


def _fault(path: Path) -> str | None:
    """What is wrong with a file, judged by its beginning, or None."""
    from PIL import Image

    # Unlike `Path.is_file` this takes any text for a name: one that is too long is of no file.
    if not os.path.isfile(path):
        return "is missing"
    try:
        with Image.open(path):
            return None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return f"is not a readable image ({type(error).__name__})"


def open_image(path: Path, name: str) -> Image.Image:
    """Read an image in full, as red, green and blue.

    Args:
        path: the file.
        name: of its row, for the message.

    Raises:
        UserError: it cannot be read; the message names the row and the file.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{name}: the image {path} cannot be read: {one_line(error)}; need a complete image; copy it again, or "
            "take the row out"
        ) from error


# Sizes that a processor which cuts images into a varying number of tiles would treat differently.
_SIZES = ((64, 64), (700, 300), (300, 1400))


@dataclass(frozen=True)
class ImageReader:
    """A processor of transformers, and how it writes an image into a text.

    Args:
        processor: of a model that turns every image into the same number of tokens.
        placeholder: the text for an image in a prompt.
        written: replaces that in the text to tokenise; has a single token in place of `count` equal ones.
        token_id: the token whose embeddings are replaced by those of the image.
        count: tokens of an image.
    """

    processor: Any
    placeholder: str
    written: str
    token_id: int
    count: int

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the processor."""
        return self.processor.tokenizer

    @property
    def tells_types(self) -> bool:
        """Whether the model needs to know which tokens are of an image, as Gemma 3 does: they attend to each other."""
        return bool(getattr(self.processor, "return_mm_token_type_ids", False))

    def values(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return the model's inputs for images, each with the images along its first dimension."""
        inputs = self.processor.image_processor(list(images), return_tensors="pt")
        return {name: value for name, value in inputs.items() if name not in self.processor.unused_input_names}


def image_reader(processor: Any) -> ImageReader:
    """Ask a processor how it writes images.

    Raises:
        UserError: the number of an image's tokens depends on its size.
    """
    require_pillow()
    from PIL import Image

    texts = {_written(processor, Image.new("RGB", size)) for size in _SIZES}
    if len(texts) > 1:
        raise UserError(
            f"{type(processor).__name__} turns images of different sizes into different numbers of tokens; need one "
            "number, as LLaVA-1.5 and Gemma 3 have; choose such a model"
        )
    (text,) = texts
    token_id = int(processor.image_token_ids[0])
    token = processor.tokenizer.convert_ids_to_tokens(token_id)
    count = text.count(token)
    return ImageReader(processor, processor.image_token, text.replace(token * count, token), token_id, count)


def _written(processor: Any, image: Image.Image) -> str:
    return str(processor.replace_image_token(processor.image_processor([image], return_tensors="pt"), 0))
