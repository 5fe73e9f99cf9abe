"""Image-instruction data: LLaVA's json, its images, prompts with places for them, tokens and batches."""

from sharelora.data.vision.batches import ImageTextCollator
from sharelora.data.vision.conversation import OWN_TEMPLATE, ConversationWriter
from sharelora.data.vision.encoding import EncodingReport, encode
from sharelora.data.vision.images import require_images
from sharelora.data.vision.processing import ImageReader, image_reader
from sharelora.data.vision.records import IMAGE, Record, read_records
from sharelora.data.vision.rows import ImageTextRows

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
