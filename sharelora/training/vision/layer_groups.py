"""Groups of similar layers for a run that measures them itself on images with texts: `--share_groups auto`."""

from __future__ import annotations

import gc
from typing import Any

import torch

from sharelora.layer_groups import Similarity
from sharelora.layer_groups.images import ImageSample, measure_with_images, read_image_sample
from sharelora.models.vision import load_vision_base, open_writer
from sharelora.trainer.devices import device_map
from sharelora.training.layer_groups import SAMPLE_SEED, with_measured
from sharelora.training.preflight import Task
from sharelora.training.vision.arguments import VisionArguments


def with_image_groups(args: VisionArguments, place: str, task: Task) -> VisionArguments:
    """See to it that the similarities which `--share_groups auto` means are in the output folder.

    Raises:
        UserError: see `sharelora.training.layer_groups.with_measured`; or rows or images that cannot be used.
    """
    flags, limit = args.flags, args.vision.model_max_length

    def read() -> ImageSample:
        name = flags.similarity_sample
        return read_image_sample(name, args.vision.image_folder, flags.similarity_texts, SAMPLE_SEED)

    def compare(sample: ImageSample) -> Similarity:
        return _measure(args, place, task, sample)

    done: VisionArguments = with_measured(args, place, task.trained is not None, read, compare, limit)
    return done


def _measure(args: VisionArguments, place: str, task: Task, sample: ImageSample) -> Similarity:
    named = args.model
    hub: dict[str, Any] = {
        "revision": named.model_revision,
        "token": named.hub_token,
        "cache_dir": named.cache_dir,
    }
    writer = open_writer(place, args.vision.chat_template, **hub)
    model = load_vision_base(
        place,
        bits=task.precision.bits,
        dtype=task.precision.dtype,
        quant_type=named.quant_type,
        double_quant=named.double_quant,
        **hub,
        **device_map(named.max_memory_MB, args.train["use_cpu"]),
    )
    found = measure_with_images(model, writer, sample, place, args.vision.model_max_length)
    # The run loads the base again, in its own way.
    del model
    gc.collect()
    torch.cuda.empty_cache()
    return found
