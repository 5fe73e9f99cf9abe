"""What a run will need, before anything is downloaded or loaded."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from torch import nn

from sharelora import activations
from sharelora.activations import Load
from sharelora.errors import UserError
from sharelora.machine import Machine
from sharelora.plan import SharingPlan
from sharelora.sites import find_sites
from sharelora.units import size

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# A process that has loaded torch, transformers, peft and the data, after its first step: measured on a CPU; on a GPU
# the context and the workspaces, not measured here.
RUNTIME = {"cpu": 740_000_000, "cuda": 600_000_000}
# What the allocator keeps of freed activations, as a part of them. Measured on a CPU (glibc) in 12 runs of models of
# 8 to 100 million parameters: 0.05 to 0.4, more with checkpointing; on a GPU an assumption.
KEPT_BLOCKS = {"cpu": 0.35, "cuda": 0.1}

# Blocks of bitsandbytes: one constant per 64 weights, quantised again in blocks of 256 constants.
_BLOCK, _BLOCK_OF_CONSTANTS = 64, 256


def _nf4(rows: int, columns: int) -> int:
    constants = ceil(rows * columns / _BLOCK)
    return ceil(rows * columns / 2) + constants + 4 * ceil(constants / _BLOCK_OF_CONSTANTS)


def _nf4_single(rows: int, columns: int) -> int:
    return ceil(rows * columns / 2) + 4 * ceil(rows * columns / _BLOCK)


def _int8(rows: int, columns: int) -> int:
    # One fp32 scale per output; outliers are a matter of activations and stay in the 16-bit part of the product.
    return rows * columns + 4 * rows


# Optimizer -> bytes of state per trainable element. Its 8-bit states have an fp32 constant per 256 elements.
STATES: dict[str, float] = {
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adamw_hf": 8,
    "paged_adamw_32bit": 8,
    "adamw_8bit": 2 + 2 * 4 / 256,
    "adamw_bnb_8bit": 2 + 2 * 4 / 256,
    "paged_adamw_8bit": 2 + 2 * 4 / 256,
    "lion_32bit": 4,
    "paged_lion_32bit": 4,
    "lion_8bit": 1 + 4 / 256,
    "paged_lion_8bit": 1 + 4 / 256,
    "rmsprop": 4,
    "sgd": 0,
}
FACTORED = "adafactor"


@dataclass(frozen=True)
class Item:
    """One line of an estimate: what it is, bytes, and how they come about."""

    name: str
    bytes: int
    note: str


@dataclass(frozen=True)
class Estimate:
    """Memory at the peak of training, item by item, and the files.

    Attributes:
        items: what stands in memory together at the peak.
        adapter_file: bytes of the saved adapter.
        checkpoint: bytes of a checkpoint to resume from: adapter and optimizer.
    """

    items: tuple[Item, ...]
    adapter_file: int
    checkpoint: int

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(item.bytes for item in self.items)

    def fits(self, machine: Machine) -> bool:
        """Whether the machine has enough free memory and disk for it."""
        return self.total <= machine.free and self.checkpoint <= machine.disk_free

    def verdict(self, machine: Machine) -> str:
        """Say in one line whether it fits."""
        answer = "fits" if self.fits(machine) else "does NOT fit"
        return f"needs {size(self.total)}, there is {machine.describe()}: {answer}"

    def table(self) -> str:
        """Return the items as a readable table with the total and the files."""
        rows = [(item.name, size(item.bytes), item.note) for item in self.items]
        rows.append(("total", size(self.total), "at the peak of a training step"))
        rows.append(("adapter file", size(self.adapter_file), "each matrix once, fp32"))
        rows.append(("checkpoint", size(self.checkpoint), "adapter and optimizer, to resume from"))
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        return "\n".join(f"{name:<{widths[0]}}  {count:>{widths[1]}}  {note}" for name, count, note in rows)


def _quantised(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the linear layers that quantisation would replace: path -> shape; heads and embeddings stay."""
    sites = [site for site in find_sites(model) if site.layer is not None]
    return {site.path: (site.d_out, site.d_in) for site in sites}


def base_bytes(model: nn.Module, bits: int, dtype: str, double_quant: bool = True) -> int:
    """Return the bytes of a frozen base.

    Args:
        model: the base, which may be on the meta device.
        bits: 4 (NF4 or FP4), 8, 16 or 32.
        dtype: `bf16`, `fp16` or `fp32`: of everything that is not quantised (16 bits), else of embeddings, norms, head.
        double_quant: whether the constants of 4-bit weights are quantised too.
    """
    width = 4 if bits == 32 else BYTES[dtype]
    if bits >= 16:
        return width * sum(parameter.numel() for parameter in model.parameters())
    packed = {4: _nf4 if double_quant else _nf4_single, 8: _int8}[bits]
    layers = _quantised(model)
    linear = sum(rows * columns for rows, columns in layers.values())
    others = sum(parameter.numel() for parameter in model.parameters()) - linear
    return width * others + sum(packed(*shape) for shape in layers.values())


def optimizer_bytes(plan: SharingPlan, optimizer: str, extra_trainable: int = 0) -> int:
    """Return the bytes of an optimizer's state.

    Raises:
        UserError: an optimizer that is not in the table.
    """
    if optimizer == FACTORED:
        return 4 * sum(rows + columns for rows, columns in plan.matrices.values()) + 4 * extra_trainable
    if optimizer not in STATES:
        known = ", ".join((*STATES, FACTORED))
        raise UserError(f"no memory estimate for optimizer {optimizer!r}; need one of {known}; choose with --optim")
    return ceil(STATES[optimizer] * (plan.num_parameters + extra_trainable))


def _dequantised(model: nn.Module, bits: int, width: int) -> int:
    """Return the largest weight in full: 4-bit layers are unpacked one at a time."""
    return width * max(rows * columns for rows, columns in _quantised(model).values()) if bits == 4 else 0


def estimate(
    model: nn.Module,
    plan: SharingPlan,
    bits: int = 16,
    dtype: str = "bf16",
    batch: int = 1,
    tokens: int = 512,
    optimizer: str = "adamw_torch",
    checkpointing: bool = True,
    *,
    lora_dropout: float = 0.0,
    double_quant: bool = True,
    extra_trainable: int = 0,
    device: str = "cpu",
) -> Estimate:
    """Estimate the memory of training adapters on a frozen base.

    It assumes: matrices, their gradients and the optimizer's state in fp32; attention that never writes its
    (T, T) scores; the fast kernels of this project; no more than one batch in flight; one process. Gradients
    accumulate in place, so accumulation adds nothing. Mixtures of experts are counted as if dense. Without runtime and
    freed blocks it is within a tenth of the tensors that a step on a CPU allocates (tested); against the measured peak
    of 12 training runs on a CPU the total was between 23 % too low (4 bits, checkpointing) and 16 % too high.

    Args:
        model: the base, usually on the meta device.
        plan: which matrices there are.
        bits: of the base: 4, 8, 16 or 32.
        dtype: of activations and of the unquantised part: `bf16`, `fp16`, `fp32`.
        batch: B, examples per forward pass.
        tokens: T, the longest example.
        optimizer: a name of transformers' `optim`.
        checkpointing: whether activations are computed again in the backward pass.
        lora_dropout: dropout of the adapters.
        double_quant: see `base_bytes`.
        extra_trainable: elements trained beside the adapters, e.g. a classifier.
        device: `cpu` or `cuda`.

    Raises:
        UserError: an unknown precision or optimizer, or no tokens.
    """
    if bits not in (4, 8, 16, 32) or dtype not in BYTES or min(batch, tokens) < 1:
        raise UserError(
            f"found bits {bits}, dtype {dtype}, batch {batch}, tokens {tokens}; need bits 4, 8, 16 or 32, "
            f"dtype {', '.join(BYTES)}, and at least one token"
        )
    width = 4 if bits == 32 else BYTES[dtype]
    shape, load = activations.shape_of(model), Load(batch, tokens, width, lora_dropout, device)
    trained = plan.num_parameters + extra_trainable
    state = optimizer_bytes(plan, optimizer, extra_trainable)
    what = {4: "4-bit", 8: "8-bit"}.get(bits, f"{8 * width}-bit")
    count = sum(parameter.numel() for parameter in model.parameters())
    active = activations.peak(shape, plan, load, checkpointing)
    kept = "layer inputs, one layer at a time" if checkpointing else "all layers"
    items = (
        Item("base", base_bytes(model, bits, dtype, double_quant), f"{count:,} parameters, {what}"),
        Item("adapter", 4 * trained, f"{trained:,} parameters, fp32"),
        Item("gradients", 4 * trained, "fp32"),
        Item("optimizer", state, optimizer),
        Item("activations", active, f"{batch} x {tokens} tokens, {kept}"),
        Item("freed blocks", ceil(KEPT_BLOCKS[device] * active), "that the allocator keeps"),
        Item("unpacked", _dequantised(model, bits, width), "the largest 4-bit layer while it is used"),
        Item("runtime", RUNTIME[device], "Python, torch and libraries"),
    )
    file = plan.file_bytes + 4 * extra_trainable
    return Estimate(tuple(item for item in items if item.bytes), file, file + state)
