"""One setting of the memory comparison: a base with random weights, loaded and trained as the main job does it."""

from __future__ import annotations

import logging
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig
from transformers.utils.logging import disable_progress_bar

from benchmarks.harness.command import flag_words
from benchmarks.harness.machine import Peak
from benchmarks.speed.bases import DTYPES, build_base, stack_config
from sharelora.data.token_rows import TrainCollator
from sharelora.trainer.devices import choose_precision, on_gpu
from sharelora.training.capacity import Outlook
from sharelora.training.instructions.job import JOB, InstructionArguments, parse
from sharelora.training.model import load_model
from sharelora.training.run import Run
from sharelora.training.settings import trainer_settings
from sharelora.training.trainer import ShareTrainer

# Name -> hidden size, layers, vocabulary. The proportions are those of LLaMA-7B; the vocabularies of 69M and 137M are
# LLaMA 3's and Gemma 3's.
SIZES = {
    "5M": (256, 4, 4096),
    "20M": (512, 4, 8192),
    "60M": (768, 6, 12288),
    "200M": (1024, 11, 32000),
    "69M": (256, 4, 128256),
    "137M": (256, 4, 262144),
}
# Name -> flags, and the dtype of the weights on the disk. Quantised bases compute in bf16.
PRECISIONS = {
    "fp32": (("--bits", "32"), "fp32"),
    "bf16": (("--bits", "16"), "bf16"),
    "8-bit": (("--bits", "8", "--bf16"), "bf16"),
    "4-bit": (("--bits", "4", "--bf16"), "bf16"),
}
_ACCUMULATION, _UPDATES, _EVAL_BATCH = 2, 2, 4


@dataclass(frozen=True)
class MemoryCell:
    """What is trained, and how.

    Attributes:
        size: a key of `SIZES`.
        precision: a key of `PRECISIONS`.
        checkpointing: whether activations are computed again.
        share: `none`, `a`, `b` or `ab`.
        batch, tokens: B rows of T tokens; of each batch all rows but one are shorter, so that there is padding.
        rank: of the adapters, on all linear layers.
        layers: of the base; None means those of its size.
    """

    size: str
    precision: str
    checkpointing: bool
    share: str
    batch: int = 2
    tokens: int = 512
    rank: int = 16
    layers: int | None = None

    @property
    def base(self) -> str:
        """Name of the folder with the weights."""
        return f"{self.size}-{self.layers or 'all'}-{PRECISIONS[self.precision][1]}"

    @property
    def name(self) -> str:
        """Name of the file of results."""
        return f"{self.size}-{self.precision}-{'checkpointing' if self.checkpointing else 'all'}-{self.share}"

    @property
    def stored(self) -> torch.dtype:
        """The dtype of the weights on the disk."""
        return DTYPES[PRECISIONS[self.precision][1]]

    def config(self) -> LlamaConfig:
        """Return the base's configuration."""
        hidden, layers, vocabulary = SIZES[self.size]
        config = stack_config(hidden, self.layers or layers, vocabulary)
        config.dtype, config.architectures = self.stored, ["LlamaForCausalLM"]
        return config

    def arguments(self, bases: Path, device: str) -> InstructionArguments:
        """Return the command line of the main job that trains this."""
        flags = {
            "model_name_or_path": f"{bases}/{self.base}",
            "output_dir": f"{bases}/out",
            "share": self.share,
            "lora_r": self.rank,
            "lora_modules": "all",
            "optim": "adamw_torch",
            "gradient_checkpointing": str(self.checkpointing).lower(),
            "per_device_train_batch_size": self.batch,
            "gradient_accumulation_steps": _ACCUMULATION,
            "max_steps": _UPDATES,
            "source_max_len": self.tokens - 1,
            "target_max_len": 1,
            "train_sampling_strategy": "sequential",
            "save_strategy": "no",
            "do_eval": "true",
            "eval_on_start": "false",
            "per_device_eval_batch_size": _EVAL_BATCH,
            "use_cpu": str(device == "cpu").lower(),
        }
        return parse([*flag_words(flags), *PRECISIONS[self.precision][0]])


def warm_up(cell: MemoryCell) -> MemoryCell:
    """Return the same setting with two layers, the least that can share: every product has the same shape."""
    return replace(cell, layers=2)


def write_base(cell: MemoryCell, bases: Path) -> None:
    """Write a cell's base with random weights, unless it is there."""
    disable_progress_bar()
    if not (bases / cell.base / "config.json").is_file():
        build_base(cell.config(), torch.device("cpu"), cell.stored).save_pretrained(bases / cell.base)


def _training(args: InstructionArguments) -> Run[InstructionArguments]:
    gpu, base = on_gpu(args.train["use_cpu"]), args.model.model_name_or_path
    precision = choose_precision(args.model.bits, args.train["bf16"], args.train["fp16"], False, True, gpu)
    return Run(args, args.adapter_settings, precision, True, None, None, base, base, None, args.output_dir)


def foreseen(cell: MemoryCell, device: str) -> Outlook:
    """Return what the job foresees of a cell before it loads anything."""
    with tempfile.TemporaryDirectory() as folder:
        args = cell.arguments(Path(folder), device)
        cell.config().save_pretrained(args.model.model_name_or_path)
        outlook = JOB.foresee(_training(args), None)
        assert outlook is not None, "adapters are trained"
        return outlook


def _rows(cell: MemoryCell, vocabulary: int, count: int) -> list[dict[str, torch.Tensor]]:
    rows = []
    for index in range(count):
        ids = torch.randint(vocabulary, (cell.tokens - (index % cell.batch),))
        rows.append({"input_ids": ids, "labels": ids})
    return rows


def measure(cell: MemoryCell, bases: Path, device: str) -> dict[str, int]:
    """Load a base, train it and evaluate, and return the peak of each in bytes, beyond what was held before.

    Returns:
        `before`, what the process held; `loading`, `training` and `evaluation`.
    """
    args, torch_device = cell.arguments(bases, device), torch.device(device)
    first = Peak(torch_device)
    training = _training(args)
    model: Any = load_model(training)
    peaks = {"before": first.before, "loading": first.read() - first.before}
    settings, _ = trainer_settings(args, training.precision)
    vocabulary = model.config.vocab_size
    trainer = ShareTrainer(
        model=model,
        args=settings,
        data_collator=TrainCollator(0),
        train_dataset=_rows(cell, vocabulary, cell.batch * _ACCUMULATION * _UPDATES),
        eval_dataset=_rows(cell, vocabulary, _EVAL_BATCH),
    )
    for name, run in (("training", trainer.train), ("evaluation", trainer.evaluate)):
        peak = Peak(torch_device)
        run()
        peaks[name] = peak.read() - first.before
    return peaks


def answer(cell: MemoryCell, bases: Path, device: str) -> dict[str, int]:
    """Measure after a warm-up with two layers.

    What libraries load when they are first used, and what oneDNN prepares for the shapes of a model's products, then
    exists before the measurement: a process has it once, not once per layer.
    """
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    disable_progress_bar()
    torch.manual_seed(0)
    measure(warm_up(cell), bases, device)
    return measure(cell, bases, device)
