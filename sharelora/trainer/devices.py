"""The machine under a run: devices, ranks, precision, and an optimizer that runs there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from sharelora.support.errors import UserError
from sharelora.tuner.quantization import has_bitsandbytes

# Optimizers of bitsandbytes, and those that replace them without it.
_REPLACEMENTS = {
    "paged_adamw_32bit": "adamw_torch",
    "paged_adamw_8bit": "adamw_torch",
    "adamw_8bit": "adamw_torch",
    "adamw_bnb_8bit": "adamw_torch",
}
BITSANDBYTES = (
    *_REPLACEMENTS,
    "ademamix",
    "ademamix_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "rmsprop_bnb",
    "rmsprop_bnb_32bit",
    "rmsprop_bnb_8bit",
)


def on_gpu(use_cpu: bool = False) -> bool:
    """Whether a GPU does the work."""
    return torch.cuda.is_available() and not use_cpu


def processes() -> int:
    """How many processes share the training; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes the files."""
    return int(os.environ.get("RANK", "0")) == 0


def device_map(max_memory_mb: int, use_cpu: bool) -> dict[str, Any]:
    """Return where a base model goes, as options of `from_pretrained`.

    A single process spreads the model over all GPUs; under a launcher each process takes its own GPU alone, or every
    process would span all of them.

    Args:
        max_memory_mb: most memory to use of each GPU, in MB.
        use_cpu: do not use GPUs.
    """
    if not on_gpu(use_cpu):
        return {}
    local = os.environ.get("LOCAL_RANK")
    if local is not None:
        return {"device_map": {"": int(local)}}
    memory = {index: f"{max_memory_mb}MB" for index in range(torch.cuda.device_count())}
    return {"device_map": "auto", "max_memory": memory}


def require_on_gpu(placement: dict[str, Any] | None, use_cpu: bool) -> None:
    """Refuse a model of which a part was offloaded to CPU memory or the disk: it cannot be trained there.

    Raises:
        UserError: it was.
    """
    offloaded = [name for name, device in (placement or {}).items() if device in ("cpu", "disk")]
    if offloaded and on_gpu(use_cpu):
        raise UserError(
            f"the model does not fit: {len(offloaded)} parts, first {offloaded[0]}, are not on a GPU; need more GPU "
            "memory; raise --max_memory_MB, add GPUs, or use --bits 4"
        )


def choose_optimizer(name: str, use_cpu: bool) -> tuple[str, str | None]:
    """Return the optimizer to use and, if it replaces the named one, a line that says so.

    Args:
        name: the requested one; QLoRA's default pages its state between GPU and CPU memory.
        use_cpu: do not use GPUs.

    Raises:
        UserError: it needs what is not there, and nothing equal replaces it.
    """
    paged_without_gpu = name.startswith("paged_") and not on_gpu(use_cpu)
    missing = "bitsandbytes" if name in BITSANDBYTES and not has_bitsandbytes() else None
    lacking = missing or ("a CUDA GPU" if paged_without_gpu else None)
    if lacking is None:
        return name, None
    if name in _REPLACEMENTS:
        return _REPLACEMENTS[name], f"--optim {name} needs {lacking}; {_REPLACEMENTS[name]} takes its place"
    raise UserError(f"found --optim {name}; need {lacking}, which is missing; use --optim adamw_torch")


@dataclass(frozen=True)
class Precision:
    """The precisions of a run: --bits, --bf16 and --fp16 together.

    Attributes:
        bits: 4, 8, 16 or 32, of the base's linear layers.
        dtype: `bf16`, `fp16` or `fp32`, of the base's other weights and of the computation.
        autocast: `bf16`, `fp16` or None: the Trainer's mixed precision.
    """

    bits: int
    dtype: str
    autocast: str | None

    def __str__(self) -> str:
        base = f"{self.bits}-bit base computing in {self.dtype}" if self.bits < 16 else f"{self.dtype} base"
        return f"{base}, fp32 adapters" + (f", {self.autocast} autocast" if self.autocast else "")


def choose_precision(bits: int, bf16: bool, fp16: bool, full_finetune: bool, training: bool, on_gpu: bool) -> Precision:
    """Decide the precisions of a run.

    16 bits means 16 bits: bf16 unless fp16 is requested (upstream loads fp32 here). A 16-bit base needs no autocast: it
    computes in the precision of its own weights, and the adapters are fp32. fp16 needs loss scaling, which comes with
    the Trainer's fp16 autocast alone.

    Args:
        bits: 4, 8, 16 or 32.
        bf16: the flag: 4 and 8 bits compute in bf16, 32 bits train under bf16 autocast.
        fp16: likewise for fp16.
        full_finetune: train the base's own weights.
        training: the run trains something.
        on_gpu: a GPU does the work.

    Raises:
        UserError: the flags contradict each other or the machine.
    """
    if bf16 and fp16:
        raise UserError("found --bf16 and --fp16; need one of them at most; drop one")
    if full_finetune and bits < 16:
        raise UserError(f"found --full_finetune with --bits {bits}; quantised weights cannot be trained; use --bits 16")
    if fp16 and training and not on_gpu:
        raise UserError("found --fp16 without a GPU; fp16 training needs loss scaling on a GPU; use --bf16")
    if fp16 and full_finetune and bits == 16:
        raise UserError(
            "found --full_finetune --fp16 --bits 16; fp16 weights cannot be trained; use --bf16 or --bits 32"
        )
    half = "bf16" if bf16 else "fp16" if fp16 else None
    if bits == 32:
        return Precision(bits, "fp32", half)
    dtype = half or ("bf16" if bits == 16 else "fp32")
    return Precision(bits, dtype, "fp16" if fp16 else None)
