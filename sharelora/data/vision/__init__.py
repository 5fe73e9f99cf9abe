"""Image-instruction data: LLaVA's json, its images, prompts with places for them, tokens and batches."""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.data.vision.batches import ImageTextCollator, ImageTextRows
    from sharelora.data.vision.conversation import OWN_TEMPLATE, ConversationWriter
    from sharelora.data.vision.encoding import EncodingReport, encode
    from sharelora.data.vision.images import ImageReader, image_reader, require_images
    from sharelora.data.vision.records import IMAGE, Record, read_records

__all__ = [
    "IMAGE",
    "OWN_TEMPLATE",
    "ConversationWriter",
    "EncodingReport",
    "ImageReader",
    "ImageTextCollator",
    "ImageTextRows",
    "Record",
    "encode",
    "image_reader",
    "read_records",
    "require_images",
]

make_lazy(__name__)
