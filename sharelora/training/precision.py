"""What --bits, --bf16 and --fp16 mean together."""

from __future__ import annotations

from dataclasses import dataclass

from sharelora.errors import UserError


@dataclass(frozen=True)
class Precision:
    """The precisions of a run.

    Attributes:
        bits: 4, 8, 16 or 32, of the base's linear layers.
        dtype: `bf16`, `fp16` or `fp32`: of the base's other weights and of the computation.
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

    16 bits means 16 bits: bf16 unless fp16 is asked for (upstream loads fp32 then). A 16-bit base needs no autocast:
    its own weights decide what is computed, and the adapters are fp32. fp16 needs loss scaling, which is part of the
    Trainer's fp16 autocast, so it comes with that.

    Args:
        bits: 4, 8, 16 or 32.
        bf16: the flag of that name: 4 and 8 bits compute in bf16, 32 bits train under bf16 autocast.
        fp16: likewise for fp16.
        full_finetune: train the base's own weights.
        training: whether anything is trained.
        on_gpu: whether a GPU does the work.

    Raises:
        UserError: flags that contradict each other or the machine.
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
