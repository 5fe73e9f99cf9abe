"""What the main job can be told beyond data, sharing and the Trainer's own settings; QLoRA's names and defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from transformers import GenerationConfig

from sharelora.flags.fields import help_field
from sharelora.support.errors import UserError

# They choose between samples; a greedy or beam search has none.
SAMPLING = ("temperature", "top_k", "top_p", "typical_p")


@dataclass
class ModelArguments:
    """The base model, its precision, and an adapter that exists already."""

    model_name_or_path: str = help_field("EleutherAI/pythia-12b", "folder or hub id of the base model")
    model_revision: str | None = help_field(None, "branch, tag or commit of the base model on the hub")
    trust_remote_code: bool = help_field(False, "run code that comes with the model")
    token: str | None = help_field(None, "hub token, or `true` for the one that `hf auth login` stored")
    cache_dir: str | None = help_field(None, "where models of the hub are kept")
    adapter: str | None = help_field(
        None, "an adapter to evaluate or predict with, or with --do_train to go on from; `none` is the bare base model"
    )
    attn_implementation: str | None = help_field(None, "sdpa, eager or flash_attention_2; by default the model's own")
    full_finetune: bool = help_field(False, "train every weight of the base instead of adapters; needs 16 or 32 bits")
    bits: Literal[4, 8, 16, 32] = help_field(4, "precision of the base: 16 is bf16, or fp16 with --fp16")
    double_quant: bool = help_field(True, "quantise the constants of the 4-bit quantisation too")
    quant_type: Literal["nf4", "fp4"] = help_field("nf4", "4-bit data type")
    max_memory_MB: int = help_field(80000, "memory to use of each GPU, where one process spreads a model over them")

    @property
    def hub_token(self) -> str | bool | None:
        """The token as the hub's library takes it."""
        return {"true": True, "false": False, "none": None}.get((self.token or "none").lower(), self.token)


@dataclass
class MmluArguments:
    """The multiple-choice callback."""

    do_mmlu_eval: bool = help_field(False, "measure MMLU accuracy at every evaluation")
    mmlu_split: Literal["eval", "val", "test"] = help_field("eval", "MMLU split; `eval` is its validation split")
    mmlu_dataset: Literal["mmlu-fs", "mmlu", "mmlu-zs"] = help_field("mmlu-fs", "five-shot (fs) or zero-shot (zs)")
    max_mmlu_samples: int | None = help_field(None, "answer at most this many questions, the same at every evaluation")
    mmlu_source_max_len: int = help_field(2048, "most tokens of a question with its examples")

    def __post_init__(self) -> None:
        for name in ("max_mmlu_samples", "mmlu_source_max_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"found {name} {value}; need at least 1; change --{name}")


@dataclass
class GenerationArguments:
    """How --do_predict writes answers."""

    max_new_tokens: int = help_field(256, "most tokens of an answer")
    min_new_tokens: int | None = help_field(None, "least tokens of an answer")
    do_sample: bool = help_field(False, "draw answers instead of taking the most probable tokens")
    num_beams: int = help_field(1, "beams of the search; 1 is greedy")
    num_beam_groups: int = help_field(
        1, "kept for QLoRA's command lines; transformers does no diverse beam search any more"
    )
    penalty_alpha: float | None = help_field(None, "kept for QLoRA's command lines; contrastive search is gone as well")
    use_cache: bool = help_field(True, "keep keys and values between tokens")
    temperature: float = help_field(1.0, "with --do_sample")
    top_k: int = help_field(50, "with --do_sample")
    top_p: float = help_field(1.0, "with --do_sample")
    typical_p: float = help_field(1.0, "with --do_sample")
    diversity_penalty: float = help_field(0.0, "kept for QLoRA's command lines, see num_beam_groups")
    repetition_penalty: float = help_field(1.0, "above 1 repeats less")
    length_penalty: float = help_field(1.0, "of a beam search: above 0 prefers longer answers")
    no_repeat_ngram_size: int = help_field(0, "no sequence of this many tokens occurs twice")

    def __post_init__(self) -> None:
        if self.num_beam_groups != 1 or self.penalty_alpha or self.diversity_penalty:
            raise UserError(
                "found num_beam_groups, penalty_alpha or diversity_penalty; transformers removed diverse beam and "
                "contrastive search; use --num_beams or --do_sample"
            )

    def config(self, pad_token_id: int, eos_token_id: int | list[int]) -> GenerationConfig:
        """Return the settings as transformers takes them."""
        gone = {"num_beam_groups", "penalty_alpha", "diversity_penalty"}
        unused = gone if self.do_sample else gone | set(SAMPLING)
        unused |= set() if self.num_beams > 1 else {"length_penalty"}
        values = {name: value for name, value in dataclasses.asdict(self).items() if name not in unused}
        return GenerationConfig(pad_token_id=pad_token_id, eos_token_id=eos_token_id, **values)


@dataclass
class RunArguments:
    """What kind of run this is."""

    tiny: bool = help_field(False, "run on the project's own small model and data; the same as SHARELORA_TINY=1")
    dry_run: bool = help_field(
        False, "check everything, print the plan and the estimate, and stop before loading weights"
    )
    overwrite_output_dir: bool = help_field(False, "start anew: remove checkpoints and results of an earlier run")
    resume_anyway: bool = help_field(
        False, "go on from a checkpoint, or evaluate what was trained, though settings that decide the result changed"
    )
    on_nan: Literal["stop", "skip"] = help_field(
        "stop", "what to do where a loss or gradient is no finite number: stop, or skip the update and count it"
    )
    ignore_memory: bool = help_field(False, "start even if the estimate says that memory will not suffice")
