"""What this job can be told beyond sharing and the Trainer's own settings; names of LLaVA's training script."""

from __future__ import annotations

from dataclasses import dataclass

from sharelora.flags.fields import help_field
from sharelora.support.errors import UserError


@dataclass
class VisionOptions:
    """Image-instruction data and how it is read."""

    data_path: str | None = help_field(None, "image-instruction rows in LLaVA's json")
    image_folder: str | None = help_field(None, "what images are relative to; by default the folder of the rows")
    eval_data_path: str | None = help_field(None, "rows to evaluate on; by default eval_dataset_size of data_path")
    eval_dataset_size: int = help_field(512, "rows held out of data_path for evaluation, chosen by data_seed")
    max_train_samples: int | None = help_field(None, "train on at most this many rows, drawn with data_seed")
    model_max_length: int = help_field(2048, "most tokens of a row, those of its images included")
    chat_template: str | None = help_field(
        None, "`vicuna`, `own` for the model's, or a Jinja file; by default vicuna for LLaVA, else the model's own"
    )
    data_seed: int = help_field(42, "seed of every choice of rows")

    def __post_init__(self) -> None:
        for name, least in (("model_max_length", 2), ("eval_dataset_size", 0), ("max_train_samples", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"found {name} {value}; need at least {least}; change --{name}")
