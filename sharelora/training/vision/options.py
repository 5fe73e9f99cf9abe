"""The flags of images and text beyond sharing and the Trainer's; names of LLaVA's training script."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharelora.flags.fields import help_field
from sharelora.flags.parser import Range, positive
from sharelora.flags.ranges import COUNT, SEED
from sharelora.support.errors import UserError
from sharelora.training.arguments import Arguments, CommandLine, adapter_evaluates
from sharelora.training.instructions.options import DEFAULTS as INSTRUCTION_DEFAULTS
from sharelora.training.options import ModelArguments


@dataclass
class VisionOptions:
    """Image-instruction data and how it is read."""

    data_path: str | None = help_field(None, "image-instruction rows as in LLaVA's json: a file, or a folder of splits")
    image_folder: str | None = help_field(None, "what images are relative to; by default the folder of the rows")
    eval_data_path: str | None = help_field(
        None, "rows to evaluate on; by default the folder's own, else eval_dataset_size of data_path"
    )
    eval_dataset_size: int = help_field(
        512, "rows held out of data_path for evaluation, chosen by data_seed", type=COUNT
    )
    max_train_samples: int | None = help_field(
        None, "train on at most this many rows, drawn with data_seed", type=positive
    )
    model_max_length: int = help_field(
        2048, "most tokens of a row, those of its images included", type=Range(2, whole=True)
    )
    chat_template: str | None = help_field(
        None, "`vicuna`, `own` for the model's, or a Jinja file; by default vicuna for LLaVA, else the model's own"
    )
    data_seed: int = help_field(42, "seed of every choice of rows", type=SEED)


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
        raise UserError(
            "found no --data_path; need rows as in LLaVA's json; pass --data_path FILE (or a folder), or add --tiny"
        )
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
