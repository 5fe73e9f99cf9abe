"""Flags that every task has: the base model, its precision, and the kind of run; QLoRA's names and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sharelora.flags.fields import help_field
from sharelora.flags.parser import FALSE, TRUE, positive
from sharelora.flags.ranges import ABOVE_0


@dataclass
class BaseArguments:
    """The base model: where it is and how it is loaded."""

    model_name_or_path: str | None = help_field(None, "folder or hub id of the base model")
    model_revision: str | None = help_field(None, "branch, tag or commit of the base model on the hub")
    trust_remote_code: bool = help_field(False, "run code that comes with the model")
    token: str | None = help_field(None, "hub token, or `true` for the one that `hf auth login` stored")
    cache_dir: str | None = help_field(None, "where models of the hub are kept")
    attn_implementation: str | None = help_field(None, "sdpa, eager or flash_attention_2; by default the model's own")

    @property
    def hub_token(self) -> str | bool | None:
        """The token as the hub's library takes it."""
        words = {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False), "none": None}
        return words.get((self.token or "none").lower(), self.token)

    @property
    def hub(self) -> dict[str, Any]:
        """Options of everything that is loaded from the hub."""
        return {
            "revision": self.model_revision,
            "token": self.hub_token,
            "trust_remote_code": self.trust_remote_code,
            "cache_dir": self.cache_dir,
        }

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """Options of a quantised base; none where it cannot be quantised."""
        return {}

    def devices(self, use_cpu: bool) -> dict[str, Any]:
        """Return where the base goes, as options of `from_pretrained`: one GPU, if there is any."""
        from sharelora.trainer.devices import on_gpu  # torch takes seconds to load, and parsers do not need it

        return {"device_map": {"": 0}} if on_gpu(use_cpu) else {}


@dataclass
class ModelArguments(BaseArguments):
    """A base model of any precision, and an adapter that exists already."""

    model_name_or_path: str = help_field("EleutherAI/pythia-12b", "folder or hub id of the base model")
    adapter: str | None = help_field(
        None,
        "an adapter to evaluate or predict with, or with --do_train to train on; `none` is the bare base model",
    )
    full_finetune: bool = help_field(False, "train every weight of the base instead of adapters; needs 16 or 32 bits")
    bits: Literal[4, 8, 16, 32] = help_field(4, "precision of the base: 16 is bf16, or fp16 with --fp16")
    double_quant: bool = help_field(True, "quantise the constants of the 4-bit quantisation too")
    quant_type: Literal["nf4", "fp4"] = help_field("nf4", "4-bit data type")
    max_memory_MB: int = help_field(
        80000, "memory to use of each GPU, where one process spreads a model over them", type=positive
    )

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """Options of a quantised base."""
        return {"quant_type": self.quant_type, "double_quant": self.double_quant}

    def devices(self, use_cpu: bool) -> dict[str, Any]:
        """Return where the base goes, as options of `from_pretrained`: over all GPUs."""
        from sharelora.trainer.devices import device_map  # see `BaseArguments.devices`

        return device_map(self.max_memory_MB, use_cpu)


@dataclass
class RunArguments:
    """What kind of run this is."""

    tiny: bool = help_field(False, "run on the project's own small model and data; the same as SHARELORA_TINY=1")
    dry_run: bool = help_field(
        False, "check everything, print the plan and the estimate, and stop before loading weights"
    )
    overwrite_output_dir: bool = help_field(
        False, "start from the beginning: remove checkpoints and results of an earlier run"
    )
    resume_anyway: bool = help_field(
        False,
        "continue from a checkpoint, or evaluate what was trained, although settings, base, tokenizer or rows changed",
    )
    on_nan: Literal["stop", "skip"] = help_field(
        "stop", "what to do where a loss or gradient is NaN or infinite: stop, or skip the update and count it"
    )
    loraplus_lr_ratio: float = help_field(
        1.0, "learning rate of the B matrices by that of the As (LoRA+, Hayou et al. 2024, proposes 16)", type=ABOVE_0
    )
    ignore_memory: bool = help_field(False, "start even if the estimate says that memory will not suffice")
