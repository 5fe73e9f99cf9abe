"""The flags of the GLUE job: LoRA's with its defaults, today's names, the sharing flags, and the methods."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sharelora.flags.fields import help_field
from sharelora.flags.parser import positive
from sharelora.flags.ranges import NOT_NEGATIVE, PART, SEED
from sharelora.flags.upstream import RULES as MAIN_RULES
from sharelora.flags.upstream import Rule, always, dropped, refused, renamed, switched
from sharelora.support.errors import UserError
from sharelora.training.arguments import DECIDED, Arguments, CommandLine
from sharelora.training.glue.methods import METHODS, BuildSettings, Method, choose_method
from sharelora.training.options import BaseArguments

_BOTTLENECKS = [name for name, method in METHODS.items() if "adapter_size" in method.settings]


@dataclass
class EncoderArguments(BaseArguments):
    """The encoder, and an adapter that exists already."""

    model_name_or_path: str | None = help_field(None, "folder or hub id of the encoder")
    tokenizer_name: str | None = help_field(None, "folder or hub id of another tokenizer than the model's own")
    lora_path: str | None = help_field(
        None,
        "an adapter to start from, or without --do_train to evaluate: a folder that this command or PEFT wrote, or a "
        "flat loralib file (its alpha is --lora_alpha)",
    )
    new_head: bool = help_field(False, "start from a new head, where the adapter's or model's is of another task")
    cls_dropout: float | None = help_field(None, "dropout in front of the head; by default the model's own", type=PART)


@dataclass
class TaskArguments:
    """The task and its rows."""

    task_name: str | None = help_field(None, "cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb or wnli; or give own files")
    train_file: str | None = help_field(None, "own rows (csv, json) with text and a column `label`, to learn")
    validation_file: str | None = help_field(None, "own rows to be evaluated on")
    test_file: str | None = help_field(None, "own rows to be predicted")
    max_seq_length: int = help_field(128, "most tokens of a row; the rest is cut off, which is said")
    pad_to_max_length: bool = help_field(False, "pad every row to that length, not each batch to its longest row")
    max_train_samples: int | None = help_field(None, "use the first N training rows", type=positive)
    max_eval_samples: int | None = help_field(None, "use the first N rows of each evaluation split", type=positive)
    max_predict_samples: int | None = help_field(None, "use the first N rows of each test split", type=positive)
    held_out: float = help_field(
        0.1,
        "part of the training rows (below 1), or how many, that the epoch is chosen on; 0 chooses none",
        type=NOT_NEGATIVE,
    )
    held_out_seed: int = help_field(0, "which rows these are; the same for every --seed", type=SEED)


@dataclass
class MethodArguments:
    """What is trained."""

    method: str | None = help_field(None, f"one of {', '.join(METHODS)}; by default the sharing flags say it")
    apply_lora: bool | None = help_field(None, "LoRA's switch: the same as --method lora, or what --share says")
    apply_adapter: bool | None = help_field(None, "LoRA's switch: the same as --method with the --adapter_type")
    adapter_type: Literal["houlsby", "pfeiffer", "parallel"] = help_field("houlsby", "with --apply_adapter")
    adapter_size: int = help_field(64, f"width of {', '.join(_BOTTLENECKS)} adapters", type=positive)
    apply_bitfit: bool | None = help_field(None, "LoRA's switch: the same as --method bitfit")
    prefix_length: int = help_field(20, "keys and values of --method prefix in each layer", type=positive)
    reg_loss_wgt: float = help_field(
        0.0, "R-drop: weight of the divergence between two passes over each batch", type=NOT_NEGATIVE
    )
    masking_prob: float = help_field(
        0.0, "Cutoff: part of the tokens that are unknown in R-drop's second pass", type=PART
    )
    selection_metric: str | None = help_field(None, "what the epoch is chosen by: a metric of the task, or loss")
    save_epoch: Literal["selected", "last"] = help_field("selected", "which epoch's weights are kept")
    use_deterministic_algorithms: bool = help_field(False, "refuse operations whose result may differ between runs")

    def __post_init__(self) -> None:
        if self.masking_prob and not self.reg_loss_wgt:
            raise UserError("found --masking_prob without --reg_loss_wgt; Cutoff masks R-drop's second pass; add it")


@dataclass(frozen=True)
class GlueArguments(Arguments):
    """A parsed command line of this task.

    Attributes:
        model, data, how: the flags by what they are about.
        method: what is trained, unless an adapter that is given says otherwise; its sharing is in the adapter settings.
    """

    model: EncoderArguments
    data: TaskArguments
    how: MethodArguments
    method: Method

    @property
    def start(self) -> str | None:
        """The weights to start from or to evaluate."""
        return self.model.lora_path

    @property
    def full(self) -> bool:
        """Whether every weight of the encoder is trained."""
        return self.method.name == "full"

    @property
    def unused_weights(self) -> bool:
        """Whether the model has trained weights that a classifier may not use."""
        return self.full

    @property
    def build_settings(self) -> BuildSettings:
        """What a method is built with."""
        return BuildSettings(self.adapter_settings, self.how.adapter_size, self.how.prefix_length)


# What is otherwise than in today's Trainer and in LoRA's script.
DEFAULTS: Mapping[str, Any] = {
    "output_dir": "./output",
    # Query and value; what they are called depends on the model.
    "lora_modules": None,
    "lora_r": 8,
    "lora_alpha": 16,
    # The method's own.
    "learning_rate": None,
    "do_train": None,
    "do_eval": None,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    # A share of all updates.
    "logging_steps": 0.02,
    "train_sampling_strategy": "group_by_length",
}
ALIASES = {
    "activation_checkpointing": ("gradient_checkpointing",),
    "activation_checkpointing_kwargs": ("gradient_checkpointing_kwargs",),
    "lora_path": ("adapter",),
    "share_groups": ("share_layers",),
}
# What --tiny changes where the command line says nothing.
TINY: Mapping[str, Any] = {
    "max_seq_length": 64,
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.06,
}
# A small model needs larger steps.
TINY_RATE = 5.0
_PRECISION = "the base is fp32, and --bf16 or --fp16 compute in half precision; evaluation does as training does"

RULES: Mapping[str, Rule] = {
    **MAIN_RULES,
    "max_val_samples": renamed("max_eval_samples"),
    "max_test_samples": renamed("max_predict_samples"),
    "adapter_path": renamed("lora_path"),
    "load_best_model_at_end": switched("save_epoch", "selected", "last"),
    "metric_for_best_model": renamed("selection_metric", lambda flag, value: value.removeprefix("eval_")),
    "greater_is_better": dropped("every metric is better when greater, and the loss when lower"),
    "use_fast_tokenizer": always("true", "only fast tokenizers are made any more"),
    "overwrite_cache": dropped("no tokenised data are kept between runs"),
    "config_name": refused("a model's configuration is next to its weights; put config.json there"),
    "prediction_loss_only": refused("metrics need predictions"),
    "fp16_full_eval": refused(_PRECISION),
    "bf16_full_eval": refused(_PRECISION),
    "torch_dtype": refused(_PRECISION),
    "bits": refused(_PRECISION),
}


def settle(flags: Namespace, given: frozenset[str], notices: list[str]) -> dict[str, Any]:
    """Choose the method, and fill in what depends on other flags."""
    method = choose_method(flags, given)
    vars(flags).update(method.sharing or {})
    if flags.do_train is None:
        # LoRA's script does only what flags name; without any of them a run trains and evaluates.
        flags.do_train = not (flags.do_eval or flags.do_predict or flags.lora_path)
        if not flags.do_train:
            notices.append("without --do_train nothing is trained")
    if flags.do_eval is None:
        flags.do_eval = flags.do_train or not flags.do_predict
    if not flags.do_eval:
        flags.eval_strategy = "no"
    if flags.learning_rate is None:
        flags.learning_rate = method.learning_rate * (TINY_RATE if flags.tiny else 1.0)
        if flags.do_train:
            notices.append(f"learning rate {flags.learning_rate:g}, the default of {method.name}")
    if flags.selection_metric and flags.eval_strategy == "no":
        raise UserError("found --selection_metric without evaluations during training; need some; use --eval_strategy")
    return {"method": method}


COMMAND = CommandLine(
    name="run_glue_share.py",
    purpose="Tune an encoder on a GLUE task or own files with shared low-rank adapters, or a baseline.",
    arguments=GlueArguments,
    groups={"model": "model", "data": "data", "how": "method"},
    defaults=DEFAULTS,
    tiny=TINY,
    aliases=ALIASES,
    rules=RULES,
    # The weights that are kept are chosen on held-out rows, not by the Trainer.
    decided=(DECIDED - {"data_seed"}) | {"load_best_model_at_end", "metric_for_best_model", "greater_is_better"},
    settle=settle,
)
parse, build_parser = COMMAND.parse, COMMAND.build_parser
