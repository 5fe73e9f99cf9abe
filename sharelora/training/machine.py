"""What this process has to work with: devices, ranks, and an optimizer that runs there."""

from __future__ import annotations

import os
from typing import Any

import torch

from sharelora.errors import UserError
from sharelora.quantization import has_bitsandbytes

# Optimizers of bitsandbytes, and what stands in for them.
_STAND_IN = {
    "paged_adamw_32bit": "adamw_torch",
    "paged_adamw_8bit": "adamw_torch",
    "adamw_8bit": "adamw_torch",
    "adamw_bnb_8bit": "adamw_torch",
}
BITSANDBYTES = (
    *_STAND_IN,
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
    """Say where a base model goes, as options of `from_pretrained`.

    One process spreads the model over all GPUs; under a launcher each process takes its own GPU alone, or every
    process would span all of them.

    Args:
        max_memory_mb: most memory to use of each GPU.
        use_cpu: leave GPUs alone.
    """
    if not on_gpu(use_cpu):
        return {}
    local = os.environ.get("LOCAL_RANK")
    if local is not None:
        return {"device_map": {"": int(local)}}
    memory = {index: f"{max_memory_mb}MB" for index in range(torch.cuda.device_count())}
    return {"device_map": "auto", "max_memory": memory}


def require_on_gpu(placement: dict[str, Any] | None, use_cpu: bool) -> None:
    """Refuse a model of which a part was put aside into CPU memory or onto the disk: it cannot be trained there.

    Raises:
        UserError: it was.
    """
    aside = [name for name, device in (placement or {}).items() if device in ("cpu", "disk")]
    if aside and on_gpu(use_cpu):
        raise UserError(
            f"the model does not fit: {len(aside)} parts, first {aside[0]}, are not on a GPU; need more GPU memory; "
            "raise --max_memory_MB, add GPUs, or use --bits 4"
        )


def choose_optimizer(name: str, use_cpu: bool) -> tuple[str, str | None]:
    """Return the optimizer to use and, if it is another than the one named, a line that says so.

    Args:
        name: the one asked for; QLoRA's default pages its state between GPU and CPU memory.
        use_cpu: leave GPUs alone.

    Raises:
        UserError: it needs what is not there, and nothing equal stands in.
    """
    paged_without_gpu = name.startswith("paged_") and not on_gpu(use_cpu)
    missing = "bitsandbytes" if name in BITSANDBYTES and not has_bitsandbytes() else None
    lacking = missing or ("a CUDA GPU" if paged_without_gpu else None)
    if lacking is None:
        return name, None
    if name in _STAND_IN:
        return _STAND_IN[name], f"--optim {name} needs {lacking}; {_STAND_IN[name]} takes its place"
    raise UserError(f"found --optim {name}; need {lacking}, which is not here; use --optim adamw_torch")
