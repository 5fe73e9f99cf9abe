"""The Trainer's settings of a run, and those settings that decide what is trained."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from sharelora.support.errors import UserError
from sharelora.trainer.devices import Precision, choose_optimizer, processes
from sharelora.trainer.launch import Setup, deepspeed, engine_of, setup
from sharelora.trainer.unsupported import refuse_engine
from sharelora.training.arguments import Arguments

# The package that a place to report to needs; of the first ones either will do.
_REPORTERS: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "comet_ml": ("comet_ml",),
    "trackio": ("trackio",),
}
# What a run does beside training, or how fast: another value trains the same adapter.
BESIDE = {
    "cache_dir",
    "config",
    "do_eval",
    "do_mmlu_eval",
    "do_predict",
    "do_train",
    "dry_run",
    "eval_accumulation_steps",
    "eval_delay",
    "eval_on_start",
    "eval_steps",
    "eval_strategy",
    "ignore_memory",
    "max_eval_samples",
    "max_mmlu_samples",
    "on_nan",
    "output_dir",
    "overwrite_output_dir",
    "per_device_eval_batch_size",
    "report_to",
    "resume_anyway",
    "resume_from_checkpoint",
    "run_name",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "trust_remote_code",
}
BESIDE_PREFIXES = (
    "dataloader_num",
    "ddp_",
    "disable_",
    "hub_",
    "local_",
    "log",
    "max_memory",
    "mmlu_",
    "push_",
    "tiny",
)


# Where the best checkpoint is kept in the end, these choose which one that is.
_CHOOSE = {
    "do_eval",
    "do_mmlu_eval",
    "eval_delay",
    "eval_steps",
    "eval_strategy",
    "max_eval_samples",
    "max_mmlu_samples",
    "save_steps",
    "save_strategy",
    "save_total_limit",
}


def trainer_settings(args: Arguments, precision: Precision) -> tuple[TrainingArguments, list[str]]:
    """Build the Trainer's settings, and say what had to be chosen differently.

    Args:
        args: the command line.
        precision: of the run.

    Raises:
        UserError: settings that contradict each other.
    """
    values = dict(args.train)
    without_gpu = values["use_cpu"] or not torch.accelerator.is_available()
    # Told to use CPUs, accelerate would leave DeepSpeed away, which uses them by itself where there are no GPUs.
    use_cpu = without_gpu and not deepspeed(engine_of())
    values["optim"], notice = choose_optimizer(values["optim"], use_cpu)
    values.update(
        bf16=precision.autocast == "bf16",
        fp16=precision.autocast == "fp16",
        use_cpu=use_cpu,
        data_seed=args.data.data_seed,
        activation_checkpointing_kwargs=checkpointing(values["activation_checkpointing_kwargs"]),
        do_eval=evaluates(args),
        eval_on_start=values["eval_on_start"] and evaluates(args),
        include_num_input_tokens_seen="all" if args.data.packing else "non_padding",
        label_names=["labels"],
        remove_unused_columns=False,
        report_to=values["report_to"].split(","),
    )
    if values["ddp_find_unused_parameters"] is None:
        values["ddp_find_unused_parameters"] = False  # the first backward proves that every one is used
    if processes() > 1 and without_gpu and values["ddp_backend"] is None:
        values["ddp_backend"] = "gloo"
    try:
        return TrainingArguments(**values), [notice] if notice else []
    except ValueError as error:
        raise UserError(f"the Trainer refuses these settings: {' '.join(str(error).split())}; change them") from error


def evaluates(args: Arguments) -> bool:
    """Whether anything is evaluated: asked for, or during training."""
    return bool(args.train["do_eval"] or args.train["eval_strategy"] != "no" or args.mmlu.do_mmlu_eval)


def checkpointing(text: str | None) -> dict[str, Any]:
    """Read the options of checkpointing; non-reentrant unless the user says otherwise.

    Raises:
        UserError: it is no JSON.
    """
    try:
        given = json.loads(text) if text else {}
    except ValueError as error:
        raise UserError(
            f'found activation_checkpointing_kwargs {text}; need JSON such as {{"use_reentrant": false}}'
        ) from error
    return {"use_reentrant": False, **given}


def reentrant(train: Mapping[str, Any]) -> bool:
    """Whether checkpointing, where it is on, is of the re-entrant kind."""
    return bool(checkpointing(train["activation_checkpointing_kwargs"])["use_reentrant"])


def check_settings(args: Arguments) -> None:
    """Refuse what cannot work before anything is loaded.

    Raises:
        UserError: a package that --report_to needs is missing, the best checkpoint would be chosen on test data, or the
            engine cannot do what is asked for.
    """
    check_reporters(args.train["report_to"])
    metric = str(args.train["metric_for_best_model"] or "loss").removeprefix("eval_")
    if metric not in ("loss", "mmlu_accuracy"):
        raise UserError(f"found --metric_for_best_model {metric}; need loss or mmlu_accuracy; change it")
    if metric == "mmlu_accuracy" and (args.mmlu.mmlu_split == "test" or not args.mmlu.do_mmlu_eval):
        raise UserError(
            "the best checkpoint is chosen on validation data, never on test; use --do_mmlu_eval --mmlu_split eval"
        )
    refuse_engine(engine_setup(args))


def engine_setup(args: Arguments) -> Setup:
    """Describe a run to the rules of engines."""
    return setup(
        args.train,
        shares=args.adapter_settings.shares,
        reentrant=reentrant(args.train),
        bits=args.model.bits,
        full=args.model.full_finetune,
        answers=args.mmlu.do_mmlu_eval or args.train["do_predict"],
    )


def check_reporters(report_to: str) -> None:
    """Refuse to report to what is not installed.

    Raises:
        UserError: a package that --report_to needs is missing.
    """
    for name in report_to.split(","):
        packages = _REPORTERS.get(name, ())
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise UserError(f"found --report_to {name}; need the package {packages[0]}; run pip install {packages[0]}")


def deciding_settings(args: Arguments) -> dict[str, Any]:
    """Return the settings that decide what is trained; runs that agree on these train the same adapter."""
    best = args.train["load_best_model_at_end"]
    beside, prefixes = (BESIDE - _CHOOSE, set(BESIDE_PREFIXES) - {"mmlu_"}) if best else (BESIDE, BESIDE_PREFIXES)
    found = {
        name: value
        for name, value in args.to_json().items()
        if name not in beside and not name.startswith(tuple(prefixes)) and not hasattr(args.generation, name)
    }
    return {**found, "processes": processes()}
