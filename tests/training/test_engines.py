"""Engines: what launchers say of them, what is refused with which way out, and the configurations of accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from sharelora.support.errors import UserError
from sharelora.trainer.launch import Setup, engine_of
from sharelora.trainer.unsupported import RULES, refuse_engine

CONFIGS = Path(__file__).resolve().parents[2] / "scripts" / "accelerate"
TRAIN: dict[str, Any] = {
    "fsdp": None,
    "deepspeed": None,
    "activation_checkpointing": True,
    "optim": "adamw_torch",
    "load_best_model_at_end": False,
    "do_train": True,
    "use_cpu": False,
    "fp16": False,
    "bf16": False,
}
TWO = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
FSDP2 = {**TWO, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}
ZERO2 = {**TWO, "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
ZERO3 = {**ZERO2, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}


def described(environment: dict[str, str], gpu: bool = True, **more: Any) -> Setup:
    """A run on GPUs; names of the Trainer's settings go there."""
    train = {name: more.pop(name) for name in list(more) if name in TRAIN}
    return Setup(engine_of(environment), environment, {**TRAIN, **train}, gpu=gpu, **more)


# Each rule's name -> runs that it must stop, none of which an earlier rule stops.
CASES: dict[str, list[Setup]] = {
    "reentrant": [described(TWO, reentrant=True)],
    "flags": [described(TWO, fsdp="full_shard"), described({}, deepspeed="zero3.json")],
    "other engine": [
        described({**TWO, "ACCELERATE_USE_MEGATRON_LM": "true"}),
        described({**TWO, "ACCELERATE_USE_PARALLELISM_CONFIG": "true"}),
    ],
    "lost processes": [
        described({"WORLD_SIZE": "2", "RANK": "0"}),
        described({"OMPI_COMM_WORLD_SIZE": "2"}),
        described({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, gpu=False),
    ],
    "launcher's precision": [described({**TWO, "ACCELERATE_MIXED_PRECISION": "bf16"})],
    "FSDP1": [described({**FSDP2, "FSDP_VERSION": "1"})],
    "FSDP2 without GPUs": [described(FSDP2, gpu=False)],
    "FSDP2 loading on one process": [described({**FSDP2, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"})],
    "FSDP2's own checkpointing": [described({**FSDP2, "FSDP_ACTIVATION_CHECKPOINTING": "true"})],
    "FSDP2 with bitsandbytes' optimizers": [described(FSDP2, optim="paged_adamw_32bit")],
    "DeepSpeed is missing": [described(ZERO2, has_deepspeed=False), described(ZERO3, has_deepspeed=False)],
    "DeepSpeed's own configuration": [described({**ZERO2, "ACCELERATE_DEEPSPEED_CONFIG_FILE": "zero.json"})],
    "ZeRO's other stages": [described({**ZERO2, "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage}) for stage in "01"],
    "DeepSpeed's batches": [
        described({**ZERO2, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}),
        described({**ZERO3, "ACCELERATE_GRADIENT_CLIPPING": "1.0"}),
    ],
    "DeepSpeed's offloading": [
        described({**ZERO2, "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}),
        described({**ZERO3, "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"}),
    ],
    "DeepSpeed's loading in parts": [described({**ZERO3, "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"})],
    "DeepSpeed with --use_cpu": [described(ZERO2, use_cpu=True)],
    "DeepSpeed's autocast": [described(ZERO2, fp16=True), described(ZERO3, bf16=True, bits=32)],
    "DeepSpeed's optimizers": [described(ZERO2, optim="paged_adamw_32bit"), described(ZERO3, optim="adafactor")],
    "quantised ZeRO-3": [described(ZERO3, bits=4), described(ZERO3, bits=8)],
    "8 bits sharded": [described(FSDP2, bits=8)],
    "sharded full tuning": [described(FSDP2, full=True), described(ZERO2, full=True)],
    "sharded classifier": [described(FSDP2, job="glue"), described(ZERO2, job="glue")],
    "sharded answers": [described(FSDP2, answers=True), described(ZERO2, answers=True)],
    "sharded choice": [described(FSDP2, load_best_model_at_end=True), described(ZERO3, load_best_model_at_end=True)],
    "sharded evaluation": [described(FSDP2, do_train=False), described(ZERO2, do_train=False)],
}


def test_every_rule_has_a_case() -> None:
    assert [rule.name for rule in RULES] == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_an_engine_cannot_do_is_refused_with_reason_and_alternative(name: str) -> None:
    rule = next(rule for rule in RULES if rule.name == name)
    for run in CASES[name]:
        with pytest.raises(UserError) as refused:
            refuse_engine(run)
        assert str(refused.value) == f"found {rule.found}; {rule.reason}; {rule.instead}"


@pytest.mark.parametrize(
    "run",
    [
        described({}),
        described({}, reentrant=True),
        described({}, gpu=False, do_train=False, answers=True),
        described(TWO, bits=4, answers=True, load_best_model_at_end=True, optim="paged_adamw_32bit"),
        described(TWO, gpu=False, full=True),
        described(TWO, reentrant=True, shares=False),
        described(TWO, reentrant=True, activation_checkpointing=False),
        described(TWO, job="glue", do_train=False),
        described(FSDP2),
        described(FSDP2, bits=4),
        described(ZERO2),
        described(ZERO3, bf16=True),
        described(ZERO3, gpu=False, bits=32),
    ],
)
def test_what_works_is_not_refused(run: Setup) -> None:
    refuse_engine(run)


ENGINES = {
    "ddp": "ddp", "ddp_cpu": "ddp", "deepspeed_zero2": "zero2", "deepspeed_zero3": "zero3", "fsdp2": "fsdp2",
}  # fmt: skip


@pytest.mark.parametrize(("name", "engine"), ENGINES.items())
def test_the_configurations_mean_what_they_are_called(name: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As accelerate itself reads them: unknown keys raise, and every key of an engine is a flag of its launcher."""
    for variable in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    parser = launch_command_parser()
    words = ["--config_file", str(CONFIGS / f"{name}.yaml"), "train.py", "--tiny"]
    args, defaults, _ = _validate_launch_command(parser.parse_args(words))
    assert defaults is not None
    assert {*defaults.fsdp_config, *defaults.deepspeed_config} <= vars(args).keys()
    assert args.num_processes == 2 and args.main_process_port == 0
    args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    environment = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
    assert engine_of({**environment, **TWO}) == engine
    refuse_engine(described({**environment, **TWO}, gpu=name != "ddp_cpu"))


def test_every_configuration_is_tested() -> None:
    assert sorted(file.stem for file in CONFIGS.glob("*.yaml")) == list(ENGINES)


def test_the_documentation_lists_every_rule() -> None:
    text = (CONFIGS.parents[1] / "docs" / "distributed.md").read_text(encoding="utf-8")
    rows = [f"| {rule.found} | {rule.reason} | {rule.instead} |" for rule in RULES]
    assert [row for row in rows if row not in text] == []
