"""The launch of a run: alone, or as one of several processes on an engine that a launcher chose."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sharelora.trainer.devices import on_gpu

Engine = Literal["alone", "ddp", "fsdp1", "fsdp2", "zero2", "zero3", "other"]
Job = Literal["causal", "glue"]
# What mpirun sets for its processes; accelerate does not read it.
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def yes(environment: Mapping[str, str], name: str) -> bool:
    """Whether a launcher switched something on."""
    return environment.get(name, "").lower() in ("true", "1")


def engine_of(environment: Mapping[str, str] = os.environ) -> Engine:
    """Return the engine that a launcher chose, by what `accelerate launch` and `torchrun` leave in the environment."""
    if yes(environment, "ACCELERATE_USE_DEEPSPEED"):
        return "zero3" if environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3" else "zero2"
    if yes(environment, "ACCELERATE_USE_FSDP"):
        return "fsdp2" if environment.get("FSDP_VERSION") == "2" else "fsdp1"
    if yes(environment, "ACCELERATE_USE_MEGATRON_LM") or yes(environment, "ACCELERATE_USE_PARALLELISM_CONFIG"):
        return "other"
    return "ddp" if int(environment.get("WORLD_SIZE", "1")) > 1 else "alone"


def deepspeed(engine: Engine) -> bool:
    """Whether an engine is DeepSpeed's."""
    return engine in ("zero2", "zero3")


@dataclass(frozen=True)
class Setup:
    """The facts about a run that decide whether an engine can do it.

    Attributes:
        engine: the one that a launcher chose.
        environment: the variables that the launcher set.
        train: the Trainer's settings by their flags' names.
        job: which Trainer: of language models, or of classifiers.
        gpu: a GPU does the work.
        shares: layers share matrices.
        reentrant: checkpointing runs a backward per layer.
        bits: precision of the base.
        full: every weight is trained.
        answers: the run asks questions or writes texts itself (--do_mmlu_eval, --do_predict).
        has_deepspeed: the package deepspeed is installed.
    """

    engine: Engine
    environment: Mapping[str, str]
    train: Mapping[str, Any]
    job: Job = "causal"
    gpu: bool = False
    shares: bool = True
    reentrant: bool = False
    bits: int = 16
    full: bool = False
    answers: bool = False
    has_deepspeed: bool = True

    @property
    def processes(self) -> int:
        """How many train together."""
        return int(self.environment.get("WORLD_SIZE", "1"))

    @property
    def deepspeed(self) -> bool:
        """Whether the engine is DeepSpeed."""
        return deepspeed(self.engine)

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the model, or of its optimizer, only."""
        return self.engine in ("fsdp1", "fsdp2", "zero2", "zero3")

    def says(self, name: str) -> bool:
        """Whether the launcher switched something on."""
        return yes(self.environment, name)

    @property
    def lost_processes(self) -> bool:
        """Whether a launcher meant several processes that do not know of each other.

        Without MPI, accelerate's launcher for CPUs starts one process only, and says where the others would be.
        """
        if "WORLD_SIZE" in self.environment:
            return self.processes > 1 and "LOCAL_RANK" not in self.environment
        several = any(int(self.environment.get(name, "1")) > 1 for name in _MPI_SIZES)
        return several or (self.says("ACCELERATE_USE_CPU") and "MASTER_ADDR" in self.environment)


def setup(train: Mapping[str, Any], environment: Mapping[str, str] = os.environ, **facts: Any) -> Setup:
    """Describe a run to the rules of `sharelora.trainer.unsupported`.

    Args:
        train: the Trainer's settings by their flags' names.
        environment: what the launcher said.
        facts: further fields of `Setup`.
    """
    installed = importlib.util.find_spec("deepspeed") is not None
    gpu = on_gpu(train["use_cpu"])
    return Setup(engine_of(environment), environment, train, gpu=gpu, has_deepspeed=installed, **facts)
