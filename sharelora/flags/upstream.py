"""Flags of earlier programs: QLoRA's, the ShareLoRA authors' and those that transformers has renamed since.

Each is passed on under its present name with a notice, dropped with a notice where it changes nothing, or refused with
the reason. Nothing is swallowed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sharelora.flags.parser import FALSE, TRUE, boolean
from sharelora.support.errors import UserError
from sharelora.support.secrets import redacted

BARE = "true"  # the value of a flag that is given without one


@dataclass(frozen=True)
class Change:
    """What becomes of an old flag: the words that replace it and one line that says so."""

    words: tuple[str, ...]
    notice: str


# Other words for a truth value.
_SAME: Mapping[str, Sequence[str]] = {"true": TRUE, "false": FALSE}

Rule = Callable[[str, str], Change]


def _truth(flag: str, value: str) -> bool:
    try:
        return boolean(value)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--{flag}: {error}") from error


def renamed(new: str, convert: Callable[[str, str], str] = lambda flag, value: value) -> Rule:
    """The same meaning under another name."""

    def rule(flag: str, value: str) -> Change:
        words = (f"--{new}", convert(flag, value))
        return Change(words, f"{' '.join(redacted((f'--{flag}', value)))} is now {' '.join(redacted(words))}")

    return rule


def switched(new: str, on: str, off: str | None = None) -> Rule:
    """A former switch that is now a choice; without `off`, switching it off changes nothing."""

    def rule(flag: str, value: str) -> Change:
        choice = on if _truth(flag, value) else off
        if choice is None:
            return Change((), f"--{flag} {value} changes nothing and is dropped")
        return Change((f"--{new}", choice), f"--{flag} {value} is now --{new} {choice}")

    return rule


def always(value_needed: str, why: str) -> Rule:
    """A flag whose one possible value is built in."""

    def rule(flag: str, value: str) -> Change:
        if value.lower() not in _SAME.get(value_needed, (value_needed,)):
            raise UserError(f"found --{flag} {value}; need {value_needed}: {why}; drop the flag")
        return Change((), f"--{flag} {value} is dropped: {why}")

    return rule


def dropped(why: str) -> Rule:
    """A flag that never had, or no longer has, an effect."""
    return lambda flag, value: Change((), f"--{flag} is dropped: {why}")


def refused(why: str) -> Rule:
    """A flag for something that is not supported."""

    def rule(flag: str, value: str) -> Change:
        raise UserError(f"found --{flag} {value}; {why}; drop the flag")

    return rule


def fraction(flag: str, value: str) -> str:
    """Read a share of all steps."""
    try:
        ratio = float(value)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio < 1:
        raise UserError(f"found --{flag} {value}; need a fraction of all steps, from 0 to less than 1; change it")
    return str(ratio) if ratio else "0"


_GONE = "transformers removed it and nothing replaces it"
_STACKED = "only LoRA adapters, shared or not, are trained here; no prefix, prompt, p_tuning or bitfit"

RULES: Mapping[str, Rule] = {
    "evaluation_strategy": renamed("eval_strategy"),
    "warmup_ratio": renamed("warmup_steps", fraction),
    "no_cuda": renamed("use_cpu"),
    "use_auth_token": renamed("token"),
    "per_gpu_train_batch_size": renamed("per_device_train_batch_size"),
    "per_gpu_eval_batch_size": renamed("per_device_eval_batch_size"),
    "group_by_length": switched("train_sampling_strategy", "group_by_length", "random"),
    "adam8bit": switched("optim", "adamw_bnb_8bit"),
    "adafactor": switched("optim", "adafactor"),
    "save_safetensors": always("true", "only safetensors are written"),
    "remove_unused_columns": always("false", "the collator needs every column"),
    "predict_with_generate": always("true", "--do_predict always generates"),
    "adapter_order": always("lora", _STACKED),
    "prediction_loss_only": dropped("evaluation never gathers logits"),
    "include_tokens_per_second": dropped("tokens per second are always reported"),
    "include_num_input_tokens_seen": dropped("tokens are always counted"),
    "local_rank": dropped("torchrun says it in the environment"),
    "fp16_full_eval": refused("it would cast the adapter; the precision of the base comes from --bits and --fp16"),
    "bf16_full_eval": refused("it would cast the adapter; the precision of the base comes from --bits and --bf16"),
    "logging_dir": refused("the folder of TensorBoard is set by the environment variable TENSORBOARD_LOGGING_DIR"),
    "torch_dtype": refused("the precision of the base comes from --bits with --bf16 or --fp16"),
    **dict.fromkeys(
        (
            "combined_configs",
            "prefix_virtual_token",
            "prefix_token_dim",
            "prefix_transformer_submodules",
            "prefix_attention_heads",
            "prefix_layers",
            "prefix_projection",
            "prompt_text",
            "prompt_tuning_init",
        ),
        refused(_STACKED),
    ),
    **dict.fromkeys(
        (
            "fp16_opt_level",
            "half_precision_backend",
            "include_inputs_for_metrics",
            "jit_mode_eval",
            "mp_parameters",
            "past_index",
            "ray_scope",
            "sharded_ddp",
            "split_batches",
            "torchdynamo",
            "tpu_num_cores",
            "use_ipex",
            "use_legacy_prediction_loop",
            "use_mps_device",
        ),
        refused(_GONE),
    ),
}


def modernise(
    words: Sequence[str], flags: Collection[str], rules: Mapping[str, Rule] = RULES
) -> tuple[list[str], list[str]]:
    """Rewrite old flags on a command line.

    Args:
        words: the command line.
        flags: every flag of the parser, with dashes; these are left alone.
        rules: old flag, without dashes -> what becomes of it.

    Returns:
        The new command line and the notices to show.

    Raises:
        UserError: a flag that is refused, or a value that its new name cannot have.
    """
    now: list[str] = []
    notices: list[str] = []
    for group in _groups(words):
        change = _change(group, flags, rules)
        now += group if change is None else change.words
        notices += [] if change is None else [change.notice]
    return now, notices


def _groups(words: Sequence[str]) -> list[list[str]]:
    """Split a command line into flags with their values; `--a=b` becomes two words, `--a-b` becomes `--a_b`."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            name, separator, value = word.partition("=")
            groups.append([name.replace("-", "_").replace("__", "--", 1), *([value] if separator else [])])
        elif groups:
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def _change(group: Sequence[str], flags: Collection[str], rules: Mapping[str, Rule]) -> Change | None:
    name, value = group[0].removeprefix("--"), " ".join(group[1:]) or BARE
    if group[0] in flags or not group[0].startswith("--"):
        return None
    if name in rules:
        return rules[name](name, value)
    positive = f"--{name.removeprefix('no_')}"
    if name.startswith("no_") and positive in flags and len(group) == 1:
        return Change((positive, "false"), f"{group[0]} is read as {positive} false")
    return None
