"""Which flags name folders or files, in every command: a `~` in their values is the home folder.

A shell expands `~` where a word begins with it, so not in `--output_dir=~/runs`, in quotes, or in a file of settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

PATHS = frozenset(
    {
        # Models, adapters, runs and results
        *(
            "model",
            "model_name_or_path",
            "tokenizer_name",
            "adapter",
            "lora_path",
            "base",
            "init_checkpoint",
            "run",
            "runs",
        ),
        *("output", "output_dir", "work_dir", "resume_from_checkpoint", "cache_dir", "report", "compare", "config"),
        *(
            "adapters",
            "path",
            "paths",
            "file",
            "folder",
            "source",
            "target",
            "grid",
            "results",
            "merged",
            "out",
            "json",
        ),
        *("sample_file", "input_file", "output_ref_file", "output_pred_file", "ref_unique_file", "vocab"),
        # Data
        *("dataset", "data", "data_root", "data_path", "eval_data_path", "image_folder", "train_data", "valid_data"),
        *("train_file", "validation_file", "test_file", "sample", "similarity_sample", "samples_file", "images"),
        *("predictions", "references", "bench", "ratings", "judge_rules", "chat_template"),
        # Sharing and engines
        *("share_plan", "share_groups", "similarity", "deepspeed", "fsdp_config", "accelerator_config"),
    }
)


def expand_home(values: argparse.Namespace) -> None:
    """Expand `~` and `~name` at the beginning of paths among parsed flags, in place."""
    for name in PATHS & vars(values).keys():
        setattr(values, name, _expanded(getattr(values, name)))


def _expanded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_expanded(item) for item in value)
    if not isinstance(value, str) or not value.startswith("~"):
        return value
    try:
        return str(Path(value).expanduser())
    except RuntimeError:  # no such user
        return value
