"""The tiny LLaVA: its configuration, its processor, and how it learns to say what it sees."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaConfig, PreTrainedModel, PreTrainedTokenizerFast

from sharelora.data.vision import IMAGE, ConversationWriter, ImageTextCollator, Record, image_reader
from sharelora.data.vision.batches import spread
from sharelora.data.vision.encoding import tokenise
from sharelora.data.vision.records import Turn
from sharelora.tiny.drawings import SIDE, draw, place, read_caption
from sharelora.tiny.objectives import Loss
from sharelora.tiny.recipe import Recipe
from sharelora.tiny.text import Document

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
    from sharelora.data.vision.images import require_pillow

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


def caption_of_pictures(tokenizer: PreTrainedTokenizerFast, found: Iterator[Document], recipe: Recipe) -> Loss:
    """Look at made pictures and predict what is said of them; every part of the model learns."""
    reader = image_reader(llava_processor(tokenizer))
    writer, collator = ConversationWriter(reader, "vicuna"), ImageTextCollator(reader, int(tokenizer.pad_token_id))
    rng = random.Random(recipe.steps)

    def item(question: str, caption: str) -> dict[str, Any]:
        turns = (Turn("user", f"{IMAGE}\n{question}"), Turn("assistant", caption))
        # The picture is drawn here; only how many there are matters to the text.
        [(ids, learnt)] = tokenise(writer, [Record("a made picture", (_NOWHERE,), turns)])
        picture = draw(read_caption(caption), *place(rng))
        return {**spread(reader, torch.tensor(ids), torch.tensor(learnt)), **reader.values([picture])}

    def loss(model: PreTrainedModel) -> Tensor:
        rows = [item(question, caption) for _, question, caption in itertools.islice(found, recipe.rows)]
        return model(**collator(rows)).loss

    return loss
