"""The command line of tuning on instructions: QLoRA's flags with its defaults, MMLU, and how answers are written."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sharelora.data import begin
from sharelora.data.arguments import DataArguments
from sharelora.flags.fields import help_field
from sharelora.flags.parser import positive
from sharelora.flags.ranges import ABOVE_0, COUNT, PART_ABOVE_0
from sharelora.support.errors import UserError
from sharelora.training.arguments import Arguments, CommandLine, adapter_evaluates
from sharelora.training.options import ModelArguments

if TYPE_CHECKING:
    from transformers import GenerationConfig


@dataclass
class MmluArguments:
    """The multiple-choice callback."""

    do_mmlu_eval: bool = help_field(False, "measure MMLU accuracy at every evaluation")
    mmlu_split: Literal["eval", "val", "test"] = help_field("eval", "MMLU split; `eval` is its validation split")
    mmlu_dataset: Literal["mmlu-fs", "mmlu", "mmlu-zs"] = help_field("mmlu-fs", "five-shot (fs) or zero-shot (zs)")
    max_mmlu_samples: int | None = help_field(
        None, "answer at most this many questions, the same at every evaluation", type=positive
    )
    mmlu_source_max_len: int = help_field(2048, "most tokens of a question with its examples", type=positive)
    bos: Literal["auto", "always", "never"] = help_field(
        begin.AUTO,
        "begin token before questions of exams: always, never, or auto: as the model is tuned, else as the tokenizer "
        "writes texts",
    )

    @property
    def split(self) -> str:
        """The split as `sharelora.data.mmlu` calls it."""
        return "val" if self.mmlu_split == "eval" else self.mmlu_split


# They choose between samples; a greedy or beam search has none.
SAMPLING = ("temperature", "top_k", "top_p", "typical_p")


@dataclass
class GenerationArguments:
    """How --do_predict writes answers."""

    max_new_tokens: int = help_field(256, "most tokens of an answer", type=positive)
    min_new_tokens: int | None = help_field(None, "least tokens of an answer", type=COUNT)
    do_sample: bool = help_field(False, "draw answers instead of taking the most probable tokens")
    num_beams: int = help_field(1, "beams of the search; 1 is greedy", type=positive)
    num_beam_groups: int = help_field(
        1, "kept for QLoRA's command lines; transformers does no diverse beam search any more"
    )
    penalty_alpha: float | None = help_field(None, "kept for QLoRA's command lines; contrastive search is gone as well")
    use_cache: bool = help_field(True, "keep keys and values between tokens")
    temperature: float = help_field(1.0, "with --do_sample", type=ABOVE_0)
    top_k: int = help_field(50, "with --do_sample", type=COUNT)
    top_p: float = help_field(1.0, "with --do_sample", type=PART_ABOVE_0)
    typical_p: float = help_field(1.0, "with --do_sample", type=PART_ABOVE_0)
    diversity_penalty: float = help_field(0.0, "kept for QLoRA's command lines, see num_beam_groups")
    repetition_penalty: float = help_field(1.0, "above 1 repeats less", type=ABOVE_0)
    length_penalty: float = help_field(1.0, "of a beam search: above 0 prefers longer answers")
    no_repeat_ngram_size: int = help_field(0, "no sequence of this many tokens occurs twice", type=COUNT)

    def __post_init__(self) -> None:
        if self.num_beam_groups != 1 or self.penalty_alpha or self.diversity_penalty:
            raise UserError(
                "found num_beam_groups, penalty_alpha or diversity_penalty; transformers removed diverse beam and "
                "contrastive search; use --num_beams or --do_sample"
            )

    def config(self, pad_token_id: int, eos_token_id: int | list[int]) -> GenerationConfig:
        """Return the settings as transformers takes them."""
        from transformers import GenerationConfig  # heavy, and a parser needs none of it

        gone = {"num_beam_groups", "penalty_alpha", "diversity_penalty"}
        unused = gone if self.do_sample else gone | set(SAMPLING)
        unused |= set() if self.num_beams > 1 else {"length_penalty"}
        values = {name: value for name, value in dataclasses.asdict(self).items() if name not in unused}
        return GenerationConfig(pad_token_id=pad_token_id, eos_token_id=eos_token_id, **values)


@dataclass(frozen=True)
class InstructionArguments(Arguments):
    """A parsed command line of this task."""

    model: ModelArguments
    data: DataArguments
    mmlu: MmluArguments
    generation: GenerationArguments

    @property
    def row_tokens(self) -> int:
        """Most tokens of a training row."""
        return self.data.row_len

    @property
    def evaluates(self) -> bool:
        """Whether anything is evaluated."""
        return super().evaluates or self.mmlu.do_mmlu_eval


def settle(flags: Namespace, given: frozenset[str], notices: list[str]) -> dict[str, Any]:
    """Decide what flags mean together."""
    adapter_evaluates(flags, given, notices)
    if flags.lr_scheduler_type == "constant" and "warmup_steps" in given and flags.warmup_steps:
        notices.append("the constant schedule has no warm-up, as in QLoRA; constant_with_warmup has one")
    if not flags.do_sample and (unused := sorted(given & set(SAMPLING))):
        notices.append(f"without --do_sample there is nothing to draw: {', '.join(unused)} change nothing")
    return {}


# The Trainer's settings whose defaults QLoRA changes (its qlora.py), then those that are changed here.
DEFAULTS: Mapping[str, Any] = {
    "output_dir": "./output",
    "optim": "paged_adamw_32bit",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 16,
    "max_steps": 10000,
    "weight_decay": 0.0,
    "learning_rate": 2e-4,
    "max_grad_norm": 0.3,
    "activation_checkpointing": True,
    "do_train": True,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0.03,
    "logging_steps": 10,
    "train_sampling_strategy": "group_by_length",
    "save_strategy": "steps",
    "save_steps": 250,
    "save_total_limit": 40,
    # The loss before the first update is what everything after it is compared with.
    "eval_on_start": True,
}


COMMAND = CommandLine(
    name="qlora_share.py",
    purpose="Tune a language model on instructions with shared low-rank adapters.",
    arguments=InstructionArguments,
    groups={"model": "model", "data": "data", "mmlu": "MMLU", "generation": "generation"},
    defaults=DEFAULTS,
    tiny={
        "bits": 32,
        "optim": "adamw_torch",
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "gradient_accumulation_steps": 1,
        "activation_checkpointing": False,
        "max_steps": 160,
        "learning_rate": 4e-3,
        "do_eval": True,
        "eval_strategy": "steps",
        "eval_steps": 80,
        "save_steps": 80,
        "eval_dataset_size": 64,
        "max_eval_samples": 64,
        "mmlu_dataset": "mmlu-zs",
    },
    settle=settle,
)


parse, build_parser = COMMAND.parse, COMMAND.build_parser
