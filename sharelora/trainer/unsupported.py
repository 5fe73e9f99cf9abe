"""The cases that an engine does not support, each with its reason and what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sharelora.support.errors import UserError
from sharelora.trainer.devices import BITSANDBYTES
from sharelora.trainer.launch import Setup

_CONFIGS = "scripts/accelerate"
_BATCHES = ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_GRADIENT_CLIPPING")
_OFFLOADS = ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE")
# Optimizers that treat every element by itself.
_BY_ELEMENT = ("adamw_torch", "adamw_torch_fused")


@dataclass(frozen=True)
class Rule:
    """A case that is refused before anything is loaded.

    Attributes:
        name: for tests and the table of docs/distributed.md.
        applies: whether a run is such a case.
        found: what was found.
        reason: what would happen, or what is needed.
        instead: what to do.
    """

    name: str
    applies: Callable[[Setup], bool]
    found: str
    reason: str
    instead: str

    def __str__(self) -> str:
        return f"found {self.found}; {self.reason}; {self.instead}"


RULES = (
    Rule(
        "reentrant",
        lambda run: run.processes > 1 and run.shares and run.reentrant and bool(run.train["activation_checkpointing"]),
        "re-entrant checkpointing of shared matrices in several processes",
        "it runs a backward per layer, so a matrix of several layers is ready several times, and ranks diverge",
        'drop --gradient_checkpointing_kwargs or set {"use_reentrant": false}',
    ),
    Rule(
        "flags",
        lambda run: bool(run.train["fsdp"] or run.train["deepspeed"]),
        "--fsdp or --deepspeed",
        "the launcher chooses the engine here, so that one command runs on all of them",
        f"drop the flag and start with accelerate launch --config_file {_CONFIGS}/fsdp2.yaml (or another file there)",
    ),
    Rule(
        "other engine",
        lambda run: run.engine == "other",
        "Megatron, or tensor, context or sequence parallelism",
        "they shard matrices that layers share in ways that nothing here can gather again",
        f"use {_CONFIGS}/ddp.yaml or {_CONFIGS}/fsdp2.yaml",
    ),
    Rule(
        "lost processes",
        lambda run: run.lost_processes,
        "a launcher of several processes (MPI, srun, or accelerate with --cpu) that do not know of each other",
        "each would train by itself",
        f"start with torchrun, or with accelerate launch --config_file {_CONFIGS}/ddp.yaml (ddp_cpu.yaml without GPUs)",
    ),
    Rule(
        "launcher's precision",
        lambda run: run.environment.get("ACCELERATE_MIXED_PRECISION", "no") != "no",
        "mixed_precision in the launcher's configuration",
        "--bits, --bf16 and --fp16 say what is computed in which precision",
        "set mixed_precision: 'no' there, or pass --mixed_precision no to accelerate launch",
    ),
    Rule(
        "FSDP1",
        lambda run: run.engine == "fsdp1",
        "FSDP1",
        "it packs matrices into flat parameters, from which checkpoints of the usual form are not written here",
        f"set fsdp_version: 2, as {_CONFIGS}/fsdp2.yaml has it",
    ),
    Rule(
        "FSDP2 without GPUs",
        lambda run: run.engine == "fsdp2" and not run.gpu,
        "FSDP2 and no GPU",
        "accelerate shards on GPUs only and would silently train whole copies",
        f"use {_CONFIGS}/ddp_cpu.yaml",
    ),
    Rule(
        "FSDP2 loading on one process",
        lambda run: run.engine == "fsdp2" and run.says("FSDP_CPU_RAM_EFFICIENT_LOADING"),
        "fsdp_cpu_ram_efficient_loading",
        "all processes but the first would start without weights, adapters among them",
        "set it to false; every process then reads the base into CPU memory",
    ),
    Rule(
        "FSDP2's own checkpointing",
        lambda run: run.engine == "fsdp2" and run.says("FSDP_ACTIVATION_CHECKPOINTING"),
        "fsdp_activation_checkpointing",
        "it draws new dropout when it recomputes a layer, so gradients are wrong",
        "set it to false and pass --gradient_checkpointing",
    ),
    Rule(
        "FSDP2 with bitsandbytes' optimizers",
        lambda run: run.engine == "fsdp2" and run.train["optim"] in BITSANDBYTES,
        "an optimizer of bitsandbytes under FSDP2",
        "it cannot update sharded matrices",
        "use --optim adamw_torch",
    ),
    Rule(
        "DeepSpeed is missing",
        lambda run: run.deepspeed and not run.has_deepspeed,
        "DeepSpeed in the launcher's configuration",
        "it needs the package deepspeed, which is not installed",
        f"run pip install -e .[deepspeed], or use {_CONFIGS}/fsdp2.yaml or {_CONFIGS}/ddp.yaml",
    ),
    Rule(
        "DeepSpeed's own configuration",
        lambda run: run.deepspeed and run.environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none",
        "deepspeed_config_file",
        "it may contradict the command on batches, precision and the optimizer",
        f"use {_CONFIGS}/deepspeed_zero2.yaml or {_CONFIGS}/deepspeed_zero3.yaml",
    ),
    Rule(
        "ZeRO's other stages",
        lambda run: run.deepspeed and run.environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2") not in ("2", "3"),
        "a zero_stage of 0 or 1",
        "it keeps gradients in a form that nothing here reads",
        f"set zero_stage: 2, as {_CONFIGS}/deepspeed_zero2.yaml has it, or use {_CONFIGS}/ddp.yaml",
    ),
    Rule(
        "DeepSpeed's batches",
        lambda run: run.deepspeed and any(run.environment.get(name, "auto") != "auto" for name in _BATCHES),
        "gradient_accumulation_steps or gradient_clipping in the launcher's configuration",
        "--gradient_accumulation_steps and --max_grad_norm say it",
        "leave them out there",
    ),
    Rule(
        "DeepSpeed's offloading",
        lambda run: run.deepspeed and any(run.environment.get(name, "none") != "none" for name in _OFFLOADS),
        "offload_optimizer_device or offload_param_device",
        "gradients and states would be in CPU memory in a form that nothing here reads",
        f"set them to none; adapters' states are small; --bits 4 with {_CONFIGS}/fsdp2.yaml needs the least GPU memory",
    ),
    Rule(
        "DeepSpeed's loading in parts",
        lambda run: run.engine == "zero3" and run.says("ACCELERATE_DEEPSPEED_ZERO3_INIT"),
        "zero3_init_flag",
        "it was not tried; transformers shards the base by itself as it loads it",
        "set it to false",
    ),
    Rule(
        "DeepSpeed with --use_cpu",
        lambda run: run.deepspeed and bool(run.train["use_cpu"]),
        "--use_cpu under DeepSpeed",
        "accelerate would silently train whole copies",
        f"drop it, or use {_CONFIGS}/ddp_cpu.yaml; where there are no GPUs, DeepSpeed uses CPUs by itself",
    ),
    Rule(
        "DeepSpeed's autocast",
        lambda run: run.deepspeed and bool(run.train["fp16"] or (run.train["bf16"] and run.bits == 32)),
        "--fp16, or --bits 32 with --bf16, under DeepSpeed",
        "instead of autocast it would turn the adapters themselves into half precision",
        "use --bits 16 --bf16: a base in bf16 and adapters in fp32",
    ),
    Rule(
        "DeepSpeed's optimizers",
        lambda run: run.deepspeed and run.train["optim"] not in _BY_ELEMENT,
        "an optimizer other than torch's AdamW under DeepSpeed",
        "it would see parts of long vectors instead of matrices",
        "use --optim adamw_torch",
    ),
    Rule(
        "quantised ZeRO-3",
        lambda run: run.engine == "zero3" and run.bits < 16,
        "--bits 4 or 8 under ZeRO-3",
        "it has not been shown to shard packed weights correctly",
        f"use {_CONFIGS}/fsdp2.yaml for 4 bits, or {_CONFIGS}/deepspeed_zero2.yaml or {_CONFIGS}/ddp.yaml",
    ),
    Rule(
        "8 bits sharded",
        lambda run: run.engine == "fsdp2" and run.bits == 8,
        "--bits 8 under FSDP2",
        "its statistics would not be sharded with the weights",
        f"use --bits 4 or 16, or {_CONFIGS}/ddp.yaml",
    ),
    Rule(
        "sharded full tuning",
        lambda run: run.sharded and run.full,
        "full fine-tuning with a sharded model or optimizer",
        "every checkpoint would gather the whole model and its optimizer on each process",
        f"tune adapters, or use {_CONFIGS}/ddp.yaml",
    ),
    Rule(
        "sharded classifier",
        lambda run: run.sharded and run.job == "glue",
        "a classifier with a sharded model or optimizer",
        "the best weights so far are kept whole on each process, and an encoder fits every GPU",
        f"use {_CONFIGS}/ddp.yaml",
    ),
    Rule(
        "sharded answers",
        lambda run: run.sharded and run.answers,
        "--do_mmlu_eval or --do_predict with a sharded model or optimizer",
        "with sharded weights, processes that have other questions or longer texts would wait for each other forever; "
        "with ZeRO-2 it was not tried",
        "drop it, and afterwards start eval/mmlu.py, or this command with --adapter, without a launcher",
    ),
    Rule(
        "sharded choice",
        lambda run: run.sharded and bool(run.train["load_best_model_at_end"]),
        "--load_best_model_at_end with a sharded model or optimizer",
        "weights can be loaded only before the engine shards them",
        "drop it; every checkpoint is an adapter, and result.json and the log say which was best",
    ),
    Rule(
        "sharded evaluation",
        lambda run: run.sharded and not run.train["do_train"],
        "a sharded model or optimizer and nothing to train",
        "the engine shards a model only together with its optimizer",
        "start without a launcher: one process spreads the model over all GPUs",
    ),
)


def refuse_engine(run: Setup) -> None:
    """Refuse what the engine of a run cannot do, before anything is loaded.

    Raises:
        UserError: the first rule that applies.
    """
    for rule in RULES:
        if rule.applies(run):
            raise UserError(str(rule))
