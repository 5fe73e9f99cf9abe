"""The Trainer's settings of a GLUE run, and those settings that decide what is trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainingArguments

from sharelora.support.errors import UserError
from sharelora.trainer.devices import Precision, choose_optimizer, choose_precision, on_gpu, processes
from sharelora.trainer.launch import setup
from sharelora.trainer.unsupported import refuse_engine
from sharelora.training.glue.arguments import GlueArguments
from sharelora.training.glue.methods import Method
from sharelora.training.settings import BESIDE, BESIDE_PREFIXES, check_reporters, checkpointing, reentrant

# Here evaluations choose the weights that are kept.
_DECIDE = {"do_eval", "eval_delay", "eval_steps", "eval_strategy", "max_eval_samples"}
_BESIDE = (BESIDE - _DECIDE) | {"max_predict_samples", "test_file"}
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def precision_of(args: GlueArguments) -> Precision:
    """Return the precisions of a run: the base is fp32, and --bf16 or --fp16 compute in half precision.

    Raises:
        UserError: both, or fp16 without a GPU.
    """
    train = args.train
    use_gpu = on_gpu(train["use_cpu"])
    return choose_precision(32, train["bf16"], train["fp16"], args.method.name == "full", train["do_train"], use_gpu)


def trainer_settings(args: GlueArguments, precision: Precision, method: Method) -> tuple[TrainingArguments, list[str]]:
    """Build the Trainer's settings, and say what had to be chosen differently.

    Raises:
        UserError: settings that contradict each other.
    """
    values = dict(args.train)
    use_cpu = values["use_cpu"] or not torch.accelerator.is_available()
    values["optim"], notice = choose_optimizer(values["optim"], use_cpu)
    values.update(
        bf16=precision.autocast == "bf16",
        fp16=precision.autocast == "fp16",
        use_cpu=use_cpu,
        activation_checkpointing_kwargs=checkpointing(values["activation_checkpointing_kwargs"]),
        include_num_input_tokens_seen="non_padding",
        label_names=["labels"],
        remove_unused_columns=False,
        report_to=values["report_to"].split(","),
    )
    if values["ddp_find_unused_parameters"] is None:
        # Some whole models have weights that a classifier never uses.
        values["ddp_find_unused_parameters"] = method.name == "full"
    if processes() > 1 and use_cpu and values["ddp_backend"] is None:
        values["ddp_backend"] = "gloo"
    try:
        settings = TrainingArguments(**values)
    except ValueError as error:
        raise UserError(f"the Trainer refuses these settings: {' '.join(str(error).split())}; change them") from error
    notices = [notice] if notice else []
    if settings.n_gpu > 1:
        # The Trainer would spread a batch over all of them and so make it larger than the command line says.
        notices.append(f"one of {settings.n_gpu} GPUs is used; start as many processes with accelerate launch")
        settings._n_gpu = 1
    return settings, notices


def check_settings(args: GlueArguments) -> None:
    """Refuse what cannot work before anything is loaded.

    Raises:
        UserError: a package that --report_to needs is missing, nothing is to be done, or the engine cannot do it.
    """
    check_reporters(args.train["report_to"])
    method = args.method
    shares = method.sharing is not None and args.adapter_settings.shares
    full = method.name == "full"
    refuse_engine(setup(args.train, job="glue", shares=shares, reentrant=reentrant(args.train), full=full, bits=32))
    if not any(args.train[name] for name in ("do_train", "do_eval", "do_predict")):
        raise UserError("nothing is to be done; pass --do_train, --do_eval or --do_predict")


def deciding_settings(args: GlueArguments) -> dict[str, Any]:
    """Return the settings that decide what is trained; runs that agree on these train the same weights."""
    found = {
        name: value
        for name, value in args.to_json().items()
        if name not in _BESIDE and not name.startswith(BESIDE_PREFIXES)
    }
    return {**found, "processes": processes()}


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch refuse operations whose result may differ from run to run; afterwards all is as before."""
    before, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(_WORKSPACE)
    try:
        if wanted:
            # As LoRA's scripts set it; cuBLAS asks for it.
            os.environ.setdefault(_WORKSPACE, ":16:8")
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        if wanted and workspace is None:
            os.environ.pop(_WORKSPACE, None)
