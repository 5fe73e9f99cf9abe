"""What a run will need, before anything is downloaded or loaded."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import nn

from sharelora.memory import activations
from sharelora.memory.activations import Load
from sharelora.memory.bytes_per_element import BYTES, FACTORED, STATES
from sharelora.memory.machine import Machine
from sharelora.plan.plan import SharingPlan
from sharelora.support.errors import UserError
from sharelora.support.text import size
from sharelora.tuner.sites import find_sites

# A process that has loaded torch, transformers, peft and the data, after its first step: measured on a CPU; on a GPU
# the context and the workspaces, not measured here.
RUNTIME = {"cpu": 740_000_000, "cuda": 600_000_000}
# What the allocator may keep of freed activations, as a part of them; it depends on what a process did before. Measured
# on a CPU (glibc with its own thresholds) in 12 runs of models of 8 to 100 million parameters: 0.05 to 0.4; on a GPU an
# assumption. It is an allowance, not a part of the estimate.
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


# Bits -> bytes per weight of the copies that bitsandbytes makes on a CPU while it quantises a layer: for 4 bits three
# fp32 ones (values, scaled, clamped), for 8 bits one in fp16, two in fp32.
_QUANTISING = {4: 12, 8: 10}

_STEP = "at the peak of a training step"


@dataclass(frozen=True)
class Item:
    """One line of an estimate: what it is, bytes, and how they come about."""

    name: str
    bytes: int
    note: str


@dataclass(frozen=True)
class Estimate:
    """Memory at the peak of a run, and the files.

    Attributes:
        items: what stands in memory together at the peak of a training step.
        adapter_file: bytes of the saved adapter.
        checkpoint: bytes of a checkpoint to resume from: adapter and optimizer.
        evaluation: what stands in memory together in evaluations; None without them.
        loading: on a CPU, what stands in memory while a base is converted. Part of it is the mapped file, which the
            system takes back where memory is short, so that it decides about nothing.
        allowance: what the allocator may keep of freed blocks; a run must fit with it.
    """

    items: tuple[Item, ...]
    adapter_file: int
    checkpoint: int
    evaluation: Item | None = None
    loading: Item | None = None
    allowance: Item | None = None

    @property
    def total(self) -> int:
        """Bytes at the peak of the run."""
        return max(self.step, self.evaluation.bytes if self.evaluation else 0)

    @property
    def step(self) -> int:
        """Bytes at the peak of a training step."""
        return sum(item.bytes for item in self.items)

    @property
    def own(self) -> int:
        """Bytes that the settings decide about: without the interpreter and its libraries."""
        return self.total - sum(item.bytes for item in self.items if item.name == "runtime")

    def describe(self) -> str:
        """Say how much, and when."""
        later = self.evaluation if self.evaluation and self.total > self.step else None
        return f"{size(self.total)} {later.note if later else _STEP}"

    def fits(self, machine: Machine) -> bool:
        """Whether the machine has enough free memory and disk for it."""
        kept = self.allowance.bytes if self.allowance else 0
        return self.total + kept <= machine.free and self.checkpoint <= machine.disk_free

    def verdict(self, machine: Machine) -> str:
        """Say in one line whether it fits."""
        answer = "fits" if self.fits(machine) else "does NOT fit"
        return f"needs {self.describe()}, there is {machine.describe()}: {answer}"

    def table(self) -> str:
        """Return the items as a readable table with the total and the files."""
        rows = [(item.name, size(item.bytes), item.note) for item in self.items]
        rows.append(("total", size(self.step), _STEP))
        others = [item for item in (self.evaluation, self.loading, self.allowance) if item is not None]
        rows += [(item.name, size(item.bytes), item.note) for item in others]
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
    """Return the largest weight in full: quantised layers are unpacked one at a time."""
    return width * _largest(model) if bits < 16 else 0


def _largest(model: nn.Module) -> int:
    return max(rows * columns for rows, columns in _quantised(model).values())


def _loading(model: nn.Module, bits: int, width: int, base: int) -> Item | None:
    """Return what a CPU holds while a base is converted; None where its weights are used where they lie in the file."""
    stored = _stored_width(model)
    if bits >= 16 and stored == width:
        return None
    file = stored * sum(parameter.numel() for parameter in model.parameters())
    copies = _QUANTISING.get(bits, 0) * _largest(model)
    note = f"while the base is loaded; {size(file)} of it are the file, which can leave memory at any time"
    return Item("loading", RUNTIME["cpu"] + base + file + copies, note)


def _stored_width(model: nn.Module) -> int:
    """Return the bytes of a weight in the file; a configuration that does not say so has 16 bits."""
    dtype = getattr(getattr(model, "config", None), "dtype", None)
    return int(dtype.itemsize) if isinstance(dtype, torch.dtype) else 2


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
    eval_batch: int = 0,
    padded: bool | None = None,
    device: str = "cpu",
) -> Estimate:
    """Estimate the memory of training adapters on a frozen base.

    It assumes: matrices, their gradients and the optimizer's state in fp32; gradients that accumulate over several
    batches, in place; attention that never writes its (T, T) scores; the fast kernels of this project; one process.
    Mixtures of experts are counted as if dense, mixed precision (autocast) as the full precision that it stands on.
    Without the runtime it is within a tenth of the tensors that a step allocates (tested), on a CPU of the peak of the
    resident set where the C library gives freed blocks back (docs/results/memory.md); what it keeps comes on top.

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
        eval_batch: examples per forward pass of evaluations; 0 for none.
        padded: whether the rows of a batch differ in length; None means that several rows do.
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
    masked = batch > 1 if padded is None else padded
    shape, load = activations.shape_of(model), Load(batch, tokens, width, lora_dropout, device, masked)
    trained = plan.num_parameters + extra_trainable
    state = optimizer_bytes(plan, optimizer, extra_trainable)
    what = {4: "4-bit", 8: "8-bit"}.get(bits, f"{8 * width}-bit")
    count = sum(parameter.numel() for parameter in model.parameters())
    base = base_bytes(model, bits, dtype, double_quant)
    unpacked = _dequantised(model, bits, width)
    quantised = [site for site in find_sites(model) if site.layer is not None] if bits == 8 else []
    active = activations.peak(shape, plan, load, checkpointing, quantised)
    kept = "layer inputs, one layer at a time" if checkpointing else "all layers"
    runtime = RUNTIME[device]
    items = (
        Item("base", base, f"{count:,} parameters, {what}"),
        Item("adapter", 4 * trained, f"{trained:,} parameters, fp32"),
        Item("gradients", 4 * trained, "fp32"),
        Item("optimizer", state, optimizer),
        Item("activations", active, f"{batch} x {tokens} tokens, {kept}"),
        Item("unpacked", unpacked, f"the largest {bits}-bit layer while it is used"),
        Item("runtime", runtime, "Python, torch and libraries"),
    )
    evaluation = None
    if eval_batch:
        there = runtime + base + 4 * trained + state + unpacked
        forward = activations.evaluation(shape, Load(eval_batch, tokens, width))
        note = f"in evaluations, {eval_batch} x {tokens} tokens"
        evaluation = Item("evaluation", there + forward, note)
    loading = _loading(model, bits, width, base) if device == "cpu" else None
    allowance = Item("freed blocks", ceil(KEPT_BLOCKS[device] * active), "that the allocator may keep beside the total")
    file = plan.file_bytes + 4 * extra_trainable
    return Estimate(tuple(item for item in items if item.bytes), file, file + state, evaluation, loading, allowance)
