"""The flags of data-to-text beyond sharing and the Trainer's; names and defaults of LoRA's script."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sharelora.flags import upstream
from sharelora.flags.fields import help_field
from sharelora.flags.parser import positive
from sharelora.flags.upstream import Change, Rule, dropped
from sharelora.models.known import MODEL_CARDS
from sharelora.support.errors import UserError
from sharelora.training.arguments import ALIASES as COMMON_ALIASES
from sharelora.training.arguments import Arguments, CommandLine, adapter_evaluates
from sharelora.training.nlg.schedule import read_cycle
from sharelora.training.options import ModelArguments


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
    max_train_samples: int | None = help_field(
        None, "train on at most this many rows, drawn with the seed", type=positive
    )
    max_eval_samples: int | None = help_field(
        None, "evaluate on at most this many rows, drawn with the seed 0", type=positive
    )
    scheduler: Literal["linear", "cosine", "constant", "cycle"] = help_field(
        "linear", "course of the learning rate after its warm-up, counted in updates"
    )
    i_steps: str = help_field("0", "with the scheduler cycle: updates at which --i_lrs are reached; the last one ends")
    i_lrs: str = help_field("0.00025", "with the scheduler cycle: learning rates, straight lines between them")
    correct_bias: bool = help_field(False, "correct Adam's averages for their start at zero, as the recipes do")
    no_decay_bias: bool = help_field(False, "no weight decay of biases; they are tuned with --lora_dim 0 only")

    def __post_init__(self) -> None:
        if self.seq_len < 4:
            raise UserError(f"found seq_len {self.seq_len}; need room for an input and a text; raise --seq_len")
        if self.scheduler == "cycle":
            read_cycle(self.i_steps, self.i_lrs)


_UNUSED = "LoRA's script reads it and never uses it"


_LAUNCH = "torchrun or accelerate launch says it in the environment"


# Flags of LoRA's script without a counterpart here.
_ELSEWHERE = ("adam8bit", "adafactor", "adapter_order", "predict_with_generate")


def _rank(flag: str, value: str) -> Change:
    """LoRA's rank 0 means that everything is tuned."""
    if value.strip() == "0":
        return Change(("--full_finetune", "true"), f"--{flag} 0 is --full_finetune: every weight is tuned")
    return Change(("--lora_r", value), f"--{flag} {value} is --lora_r {value}")


RULES: Mapping[str, Rule] = {
    **{name: rule for name, rule in upstream.RULES.items() if name not in _ELSEWHERE},
    "lora_dim": _rank,
    **dict.fromkeys(("roll_interval", "roll_lr", "roll_step", "eval_epoch"), dropped(_UNUSED)),
    **dict.fromkeys(("platform", "local_rank", "rank", "device", "world_size"), dropped(_LAUNCH)),
}


C_ATTN = "c_attn"  # GPT-2's query, key and value in one


QUERY_AND_VALUE = f"{C_ATTN}=1,0,1"


# Settings of the Trainer and of the adapter: LoRA's defaults, then those that are decided here.
DEFAULTS: Mapping[str, Any] = {
    "output_dir": "./gpt2_model",
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 4,
    "max_grad_norm": 0.0,
    "logging_steps": 100,
    "eval_steps": 2000,
    "save_steps": 500,
    "learning_rate": 1e-5,
    "weight_decay": 0.01,
    "adam_epsilon": 1e-6,
    "adam_beta2": 0.98,
    "seed": 10,
    "lora_alpha": 128,
    # LoRA's default rank is 0, which tunes everything; its recipe has 4, and 5 epochs.
    "lora_r": 4,
    "num_train_epochs": 5,
    "lora_modules": C_ATTN,
    "enable_lora": QUERY_AND_VALUE,
    "model_name_or_path": None,
    "bits": 32,
    "do_train": True,
    "do_eval": True,
    "eval_strategy": "steps",
    "eval_on_start": True,
    "save_strategy": "steps",
    "save_total_limit": 5,
    "activation_checkpointing": False,
    "train_sampling_strategy": "random",
    # What has no flag: the optimizer and the schedule are those of this job.
    "optim": "adamw_torch",
    "optim_args": None,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
}


# LoRA's names of the same things.
ALIASES: Mapping[str, Sequence[str]] = {
    **COMMON_ALIASES,
    "output_dir": ("work_dir",),
    "per_device_train_batch_size": ("train_batch_size",),
    "per_device_eval_batch_size": ("valid_batch_size",),
    "gradient_accumulation_steps": ("grad_acc",),
    "max_grad_norm": ("clip",),
    "logging_steps": ("log_interval",),
    "eval_steps": ("eval_interval",),
    "save_steps": ("save_interval",),
    "learning_rate": ("lr",),
    "adam_epsilon": ("adam_epislon",),
    "max_steps": ("max_step",),
    "num_train_epochs": ("max_epoch",),
    "warmup_steps": ("warmup_step",),
    "label_smoothing_factor": ("label_smooth",),
    "seed": ("random_seed",),
    "model_name_or_path": ("init_checkpoint",),
    "scheduler": ("lr_scheduler_type",),
}


# What --tiny changes where the command line says nothing.
TINY: Mapping[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "max_steps": 120,
    "warmup_steps": 10,
    "learning_rate": 4e-3,
    "lora_alpha": 32,
    "correct_bias": True,
    "logging_steps": 20,
    "eval_steps": 60,
    "save_steps": 60,
}


_PICKLED = (".bin", ".pt", ".pth")


@dataclass(frozen=True)
class NlgArguments(Arguments):
    """A parsed command line of this task."""

    model: ModelArguments
    nlg: NlgOptions

    @property
    def data_seed(self) -> int:
        """Seed of the order of the rows."""
        return int(self.train["seed"])

    @property
    def row_tokens(self) -> int:
        """Most tokens of a training row."""
        return self.nlg.seq_len


def settle(flags: Namespace, given: frozenset[str], notices: list[str]) -> dict[str, Any]:
    """Decide what flags mean together."""
    if flags.model_name_or_path is None:
        flags.model_name_or_path = MODEL_CARDS[flags.model_card]
    if str(flags.model_name_or_path).endswith(_PICKLED):
        raise UserError(
            f"found the pickled weights {flags.model_name_or_path}, which can run code when loaded; need a folder with "
            "model.safetensors, or an id of the hub; leave out --init_checkpoint to take --model_card"
        )
    adapted = {name.strip() for name in str(flags.lora_modules).split(",")}
    if "enable_lora" not in given and not adapted & {C_ATTN, "all", "all-linear"}:
        flags.enable_lora = None
    adapter_evaluates(flags, given, notices)
    if flags.scheduler == "cycle":
        flags.max_steps = read_cycle(flags.i_steps, flags.i_lrs)[-1][0]
        notices.append(f"the scheduler cycle ends with its last corner: --max_step {flags.max_steps}")
    elif {"max_steps", "num_train_epochs"} <= given and flags.max_steps > 0:
        notices.append(f"found --max_step and --max_epoch; {flags.max_steps} updates are done, whatever the epochs")
    return {}


COMMAND = CommandLine(
    name="gpt2_share_ft.py",
    purpose="Tune GPT-2 on E2E, WebNLG or DART with shared low-rank adapters.",
    arguments=NlgArguments,
    groups={"nlg": "data and objective", "model": "model"},
    defaults=DEFAULTS,
    tiny=TINY,
    aliases=ALIASES,
    rules=RULES,
    # The optimizer and the schedule are the task's own; a 4-bit base is quantised by default.
    fixed=frozenset(
        {
            "optim",
            "optim_args",
            "lr_scheduler_type",
            "lr_scheduler_kwargs",
            "double_quant",
            "quant_type",
            "max_memory_MB",
        }
    ),
    settle=settle,
    # Epochs that were asked for are done; the number of updates would decide otherwise.
    tiny_given=lambda given: {"max_steps": -1} if "num_train_epochs" in given else {},
)


parse, build_parser = COMMAND.parse, COMMAND.build_parser
