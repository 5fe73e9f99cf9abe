"""Tuning a model that sees on conversations about images: LLaVA's names for its data, and what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharelora.flags.adapter import AdapterSettings
from sharelora.layer_groups import Similarity
from sharelora.layer_groups.images import ImageSample, measure_with_images, read_image_sample
from sharelora.memory.advice import FlagNames
from sharelora.models.context import context_of
from sharelora.models.known import meta_model, model_config
from sharelora.models.vision import PROJECTOR, load_vision_base, open_writer, require_vision
from sharelora.training.job import Job
from sharelora.training.layer_groups import SAMPLE_SEED, with_measured
from sharelora.training.model import base_options, load_model
from sharelora.training.run import Run, Session
from sharelora.training.runner import run_job
from sharelora.training.trainer import ShareTrainer
from sharelora.training.vision.data import VisionData, VisionRecords, encode_records, load_records
from sharelora.training.vision.options import COMMAND, VisionArguments, build_parser, parse

__all__ = ["JOB", "build_parser", "parse", "run"]


def _load_base(base: str, trust_remote_code: bool = False, **options: Any) -> Any:
    return load_vision_base(base, **options)


class VisionJob(Job[VisionArguments, VisionData]):
    """Images with texts, as the runner asks about them: adapters in the language model alone, and the projector."""

    command = COMMAND
    names = FlagNames("per_device_train_batch_size", "gradient_accumulation_steps", ("model_max_length",))
    trainer = ShareTrainer
    tiny_base = "llava"
    whole = (PROJECTOR,)
    also_precise = ", fp32 projector"

    def adapter(self, args: VisionArguments, base: str, trained: Path | None) -> AdapterSettings:
        """Confine the adapters to the language model; files record them as typed.

        Raises:
            UserError: the model has no vision tower, or its language model has no such modules.
        """
        require_vision(base)
        settings = super().adapter(args, base, trained)
        return settings if trained is not None else settings.confined_to_language(meta_model(base))

    def read(self, run: Run[VisionArguments]) -> VisionRecords:
        """Read the conversations and find their images."""
        return load_records(run.args.vision, run.args.run.tiny, run.training, run.args.evaluates)

    def group(self, run: Run[VisionArguments]) -> Run[VisionArguments]:
        """Measure the layers on images with texts for --share_groups auto."""
        values, options = run.args.values, run.args.vision

        def read() -> ImageSample:
            name = values["similarity_sample"]
            return read_image_sample(name, options.image_folder, values["similarity_texts"], SAMPLE_SEED)

        def compare(sample: ImageSample) -> Similarity:
            writer = open_writer(run.base, options.chat_template, **_hub(run))
            model = _load_base(run.base, **base_options(run))
            return measure_with_images(model, writer, sample, run.base, options.model_max_length)

        return with_measured(run, read, compare, options.model_max_length)

    def load_data(self, run: Run[VisionArguments], rows: VisionRecords) -> VisionData:
        """Tokenise the conversations with the model's own processor."""
        options = run.args.vision
        writer = open_writer(run.base, options.chat_template, **_hub(run))
        return encode_records(rows, writer, options, context_of(model_config(run.base)))

    def load_model(self, run: Run[VisionArguments], data: VisionData) -> Any:
        """Load the model; the projector trains as a whole."""
        return load_model(run, _load_base, self.whole)


def _hub(run: Run[VisionArguments]) -> dict[str, Any]:
    """Options of the hub, without code of others."""
    return {name: value for name, value in run.args.model.hub.items() if name != "trust_remote_code"}


JOB = VisionJob()


def run(args: VisionArguments) -> Session[VisionArguments, VisionData] | None:
    """Do what the command line asks for, see `sharelora.training.runner.run_job`."""
    return run_job(JOB, args)
