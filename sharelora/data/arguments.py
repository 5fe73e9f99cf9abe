"""The data flags: which set, in which prompt format, of which lengths, and how it is split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sharelora.support.errors import UserError


def _flag(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class DataArguments:
    """The data flags, with QLoRA's names and defaults where QLoRA has them.

    Raises:
        UserError: a value out of range.
    """

    dataset: str = _flag("alpaca", "name of a known data set, or a local file or folder")
    dataset_format: str | None = _flag(None, "prompt format; by default the data set's own, or chosen by the columns")
    data_subset: str | None = _flag(None, "value of the column `subset` to keep, or `all`")
    eval_dataset_size: float = _flag(
        1024, "validation rows taken from train where the data has no validation split: a count, or a fraction below 1"
    )
    max_train_samples: int | None = _flag(None, "train on at most this many rows, drawn with data_seed")
    max_eval_samples: int | None = _flag(None, "evaluate and predict on at most this many rows, drawn with data_seed")
    source_max_len: int = _flag(1024, "most tokens of a prompt, begin token included")
    target_max_len: int = _flag(256, "most tokens of an answer, end token included")
    train_on_source: bool = _flag(False, "let the prompt's tokens count in the loss too")
    packing: bool = _flag(False, "put several training examples into one row, without attention between them")
    pack_len: int | None = _flag(None, "tokens of a packed row; by default source_max_len + target_max_len")
    chat_template: str | None = _flag(
        None,
        "`tokenizer` for its own chat template, the name of one of its several, `chatml`, `vicuna`, or a Jinja file; "
        "by default plain prompts",
    )
    data_seed: int = _flag(42, "seed of every choice of rows")
    few_shot: int = _flag(8, "worked examples before each GSM8K question; 0 for none")
    keep_calculator: bool = _flag(True, "keep GSM8K's <<a*b=c>> marks in the answers that are learnt")

    def __post_init__(self) -> None:
        for name in ("source_max_len", "target_max_len", "pack_len", "max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"found {name} {value}; need at least 1; change --{name}")
        if self.few_shot < 0:
            raise UserError(f"found few_shot {self.few_shot}; need 0 or more; change --few_shot")
        size = self.eval_dataset_size
        if size < 0 or (size > 1 and size != int(size)):
            raise UserError(
                f"found eval_dataset_size {size}; need a whole number of rows or a fraction between 0 and 1; "
                "change --eval_dataset_size"
            )

    @property
    def row_len(self) -> int:
        """Tokens of a packed row."""
        return self.pack_len or self.source_max_len + self.target_max_len
