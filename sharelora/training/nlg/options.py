"""What this job can be told beyond sharing and the Trainer's own settings; names and defaults of LoRA's script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharelora.flags.fields import help_field
from sharelora.support.errors import UserError
from sharelora.training.nlg.schedule import read_cycle


@dataclass
class NlgOptions:
    """Data, objective and schedule."""

    model_card: Literal["gpt2.sm", "gpt2.md", "gpt2.lg"] = help_field(
        "gpt2.md", "size of GPT-2, where --model_name_or_path does not name a model"
    )
    train_data: str = help_field("e2e", "e2e, webnlg or dart, or a file: mr||ref text, csv, json, XML, or token ids")
    valid_data: str | None = help_field(None, "rows to be evaluated on; by default the validation split of train_data")
    seq_len: int = help_field(512, "most tokens of a row; batches are padded to their own longest row")
    obj: Literal["clm", "jlm"] = help_field("clm", "loss on the text (clm), or on the input too (jlm)")
    max_train_samples: int | None = help_field(None, "train on at most this many rows, drawn with the seed")
    max_eval_samples: int | None = help_field(None, "evaluate on at most this many rows, drawn with the seed 0")
    scheduler: Literal["linear", "cosine", "constant", "cycle"] = help_field(
        "linear", "course of the learning rate after its warm-up, counted in updates"
    )
    i_steps: str = help_field("0", "with the scheduler cycle: updates at which --i_lrs are reached; the last one ends")
    i_lrs: str = help_field("0.00025", "with the scheduler cycle: learning rates, straight lines between them")
    correct_bias: bool = help_field(False, "correct Adam's averages for their start at zero, as the recipes do")
    no_decay_bias: bool = help_field(False, "no weight decay of biases; they are tuned with --lora_dim 0 only")

    def __post_init__(self) -> None:
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"found {name} {value}; need at least 1; change --{name}")
        if self.seq_len < 4:
            raise UserError(f"found seq_len {self.seq_len}; need room for an input and a text; raise --seq_len")
        if self.scheduler == "cycle":
            read_cycle(self.i_steps, self.i_lrs)
