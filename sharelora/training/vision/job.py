"""Tuning a model that sees on conversations about images: LLaVA's names for its data, and what is measured."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharelora.flags.adapter import AdapterSettings
from sharelora.layer_groups import Similarity
from sharelora.layer_groups.images import ImageSample, measure_with_images, read_image_sample
from sharelora.memory.advice import FlagNames
from sharelora.models.known import meta_model
from sharelora.models.vision import PROJECTOR, load_vision_base, open_writer, require_vision
from sharelora.support.errors import UserError
from sharelora.training.arguments import Arguments, CommandLine, adapter_evaluates
from sharelora.training.instructions.job import DEFAULTS as INSTRUCTION_DEFAULTS
from sharelora.training.job import Job
from sharelora.training.layer_groups import SAMPLE_SEED, with_measured
from sharelora.training.model import base_options, load_model
from sharelora.training.options import ModelArguments
from sharelora.training.run import Run, Session
from sharelora.training.runner import run_job
from sharelora.training.trainer import ShareTrainer
from sharelora.training.vision.data import VisionData, VisionOptions, VisionRecords, encode_records, load_records

# The second ShareLoRA paper's settings for LLaVA-1.5-7B; what it does not say is as in the main job.
DEFAULTS: Mapping[str, Any] = {
    **INSTRUCTION_DEFAULTS,
    "output_dir": "./llava_output",
    "model_name_or_path": "llava-hf/llava-1.5-7b-hf",
    "bits": 16,
    "lora_r": 64,
    "lora_alpha": 128,
    "lora_dropout": 0.05,
    "num_train_epochs": 1,
    "max_steps": -1,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 64,
    "optim": "adamw_torch",
    "max_grad_norm": 1.0,
    "similarity_texts": 128,
}
# What --tiny changes where the command line says nothing.
TINY: Mapping[str, Any] = {
    "bits": 32,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "activation_checkpointing": False,
    "max_steps": 120,
    "learning_rate": 2e-3,
    "do_eval": True,
    "eval_strategy": "steps",
    "eval_steps": 60,
    "save_steps": 60,
    "eval_dataset_size": 64,
    "model_max_length": 512,
}


@dataclass(frozen=True)
class VisionArguments(Arguments):
    """A parsed command line of this task."""

    model: ModelArguments
    vision: VisionOptions

    @property
    def row_tokens(self) -> int:
        """Most tokens of a training row."""
        return self.vision.model_max_length


def settle(flags: Namespace, given: frozenset[str], notices: list[str]) -> dict[str, Any]:
    """Decide what flags mean together."""
    adapter_evaluates(flags, given, notices)
    if flags.data_path is None and not flags.tiny:
        raise UserError("found no --data_path; need rows in LLaVA's json; pass --data_path FILE, or add --tiny")
    return {}


COMMAND = CommandLine(
    name="llava_share.py",
    purpose="Tune LLaVA, or a model like it, on conversations about images.",
    arguments=VisionArguments,
    groups={"vision": "data", "model": "model"},
    defaults=DEFAULTS,
    tiny=TINY,
    # Adapters and the projector are what is trained, and no code of others is run.
    fixed=frozenset({"full_finetune", "trust_remote_code"}),
    settle=settle,
)
parse, build_parser = COMMAND.parse, COMMAND.build_parser


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

    def adapter(self, args: VisionArguments, base: str) -> AdapterSettings:
        """Confine the adapters to the language model; files record them as typed.

        Raises:
            UserError: the model has no vision tower, or its language model has no such modules.
        """
        require_vision(base)
        return args.adapter_settings.confined_to_language(meta_model(base))

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
        return encode_records(rows, open_writer(run.base, options.chat_template, **_hub(run)), options)

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
