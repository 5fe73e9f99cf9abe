"""Image-instruction data: LLaVA's json, its images, prompts with places for them, tokens and batches."""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.data.vision.batches import ImageTextCollator, ImageTextRows
    from sharelora.data.vision.conversations import IMAGE, Conversation, read_conversations
    from sharelora.data.vision.images import ImageReader, image_reader, require_images
    from sharelora.data.vision.tokens import OWN_TEMPLATE, ConversationWriter, EncodingReport, encode

__all__ = [
    "IMAGE",
    "OWN_TEMPLATE",
    "Conversation",
    "ConversationWriter",
    "EncodingReport",
    "ImageReader",
    "ImageTextCollator",
    "ImageTextRows",
    "encode",
    "image_reader",
    "read_conversations",
    "require_images",
]

make_lazy(__name__)
