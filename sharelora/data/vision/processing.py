"""What a model's processor makes of an image: values for the vision tower, and a place among the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sharelora.data.vision.images import require_pillow
from sharelora.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

# Sizes that a processor which cuts images into a varying number of tiles would treat differently.
_SIZES = ((64, 64), (700, 300), (300, 1400))


@dataclass(frozen=True)
class ImageReader:
    """A processor of transformers, and how it writes an image into a text.

    Args:
        processor: of a model that turns every image into the same number of tokens.
        place: what stands for an image in a prompt.
        written: what takes its place in the text that is tokenised; one token there stands for `count` equal ones.
        token_id: that token, whose vectors are replaced by those of the image.
        count: tokens of an image.
    """

    processor: Any
    place: str
    written: str
    token_id: int
    count: int

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the processor."""
        return self.processor.tokenizer

    @property
    def tells_types(self) -> bool:
        """Whether the model is told which tokens are of an image, as Gemma 3 is: they see each other in full."""
        return bool(getattr(self.processor, "return_mm_token_type_ids", False))

    def values(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return the model's inputs for images, each with the images along its first dimension."""
        made = self.processor.image_processor(list(images), return_tensors="pt")
        return {name: value for name, value in made.items() if name not in self.processor.unused_input_names}


def image_reader(processor: Any) -> ImageReader:
    """Learn from a processor how it writes images.

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
