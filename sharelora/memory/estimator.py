"""The estimate of the memory that a run will need, before anything is downloaded or loaded."""

# Parsers read the tables of this module, so it loads without torch.

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

from sharelora.memory import activations
from sharelora.memory.activations import Workload
from sharelora.memory.machine import Machine
from sharelora.plan.plan import SharingPlan
from sharelora.plan.site import Site
from sharelora.support.errors import UserError
from sharelora.support.text import columns, size

if TYPE_CHECKING:
    from torch import nn

# Bytes of an element.
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

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

# A process that has loaded torch, transformers, peft and the data, after its first step: measured on a CPU; on a GPU
# the context and the workspaces, not measured here.
RUNTIME = {"cpu": 740_000_000, "cuda": 600_000_000}
# Freed activations that the allocator may keep, as a part of them; it depends on what a process did before. Measured on
# a CPU (glibc with its own thresholds) in 12 runs of models of 8 to 100 million parameters: 0.05 to 0.4; on a GPU an
# assumption. It is an allowance, not a part of the estimate.
KEPT_BLOCKS = {"cpu": 0.35, "cuda": 0.1}

# bitsandbytes has one constant per 64 weights of 4 bits, and quantises these again in blocks of 256.
_BLOCK, _BLOCK_OF_CONSTANTS = 64, 256
# Bits -> bytes per weight of the copies that bitsandbytes makes on a CPU while it quantises a layer: for 4 bits three
# fp32 ones (values, scaled, clamped), for 8 bits one in fp16, two in fp32.
_QUANTISING = {4: 12, 8: 10}

_STEP = "at the peak of a training step"


@dataclass(frozen=True)
class Item:
    """One line of an estimate: its name, its bytes, and where they come from."""

    name: str
    bytes: int
    note: str


@dataclass(frozen=True)
class Estimate:
    """Memory at the peak of a run, and sizes of its files.

    Attributes:
        items: everything that is in memory at the peak of a training step.
        adapter_file: bytes of the saved adapter.
        checkpoint: bytes of a checkpoint to resume from: adapter and optimizer.
        evaluation: the total at the peak of an evaluation; None without evaluations.
        loading: on a CPU, the total while a base is converted. Part of it is the mapped file, which the system drops
            where memory is short, so this limits nothing.
        allowance: freed blocks that the allocator may keep; a run must fit with them.
        device: whose memory the run needs, `cpu` or `cuda`.
    """

    items: tuple[Item, ...]
    adapter_file: int
    checkpoint: int
    evaluation: Item | None = None
    loading: Item | None = None
    allowance: Item | None = None
    device: str = "cpu"

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
        """Bytes that depend on the settings: all but the interpreter and its libraries."""
        return self.total - sum(item.bytes for item in self.items if item.name == "runtime")

    def describe(self) -> str:
        """Return the peak in words: how much, and when."""
        in_evaluation = self.evaluation is not None and self.total > self.step
        return f"{size(self.total)} {self.evaluation.note if self.evaluation and in_evaluation else _STEP}"

    def fits(self, machine: Machine) -> bool:
        """Whether the machine has enough free memory and disk."""
        allowance = self.allowance.bytes if self.allowance else 0
        return self.total + allowance <= machine.free(self.device) and self.checkpoint <= machine.disk_free

    def verdict(self, machine: Machine) -> str:
        """Return in one line whether it fits."""
        answer = "fits" if self.fits(machine) else "does NOT fit"
        return f"needs {self.describe()}, there is {machine.describe()}: {answer}"

    def table(self) -> str:
        """Return a table of the items, with the total and the sizes of files."""
        others = [item for item in (self.evaluation, self.loading, self.allowance) if item is not None]
        items = [
            *self.items,
            Item("total", self.step, _STEP),
            *others,
            Item("adapter file", self.adapter_file, "each matrix once, fp32"),
            Item("checkpoint", self.checkpoint, "adapter and optimizer, to resume from"),
        ]
        return "\n".join(columns([(item.name, size(item.bytes), item.note) for item in items], left=(0, 2)))


def _quantisable(model: nn.Module) -> list[Site]:
    """Return the linear layers that quantisation would replace; heads and embeddings stay."""
    from sharelora.tuner.sites import linear_paths, sites_of

    return [site for site in sites_of(model, linear_paths(model)) if site.layer is not None]


def _quantised_bytes(elements: int, d_out: int, bits: int, double_quant: bool) -> int:
    """Return the bytes of a quantised weight with its constants."""
    if bits == 8:
        # One fp32 scale per output; outliers are a matter of activations and stay in the 16-bit part of the product.
        return elements + 4 * d_out
    constants = ceil(elements / _BLOCK)
    of_constants = constants + 4 * ceil(constants / _BLOCK_OF_CONSTANTS) if double_quant else 4 * constants
    return ceil(elements / 2) + of_constants


def base_bytes(model: nn.Module, bits: int, dtype: str, double_quant: bool = True) -> int:
    """Return the bytes of a frozen base.

    Args:
        model: the base, which may be on the meta device.
        bits: 4 (NF4 or FP4), 8, 16 or 32.
        dtype: `bf16`, `fp16` or `fp32`: of all weights at 16 bits, of embeddings, norms and head at 8 and 4.
        double_quant: whether the constants of 4-bit weights are quantised too.
    """
    width = 4 if bits == 32 else BYTES[dtype]
    count = sum(parameter.numel() for parameter in model.parameters())
    if bits >= 16:
        return width * count
    sites = _quantisable(model)
    others = count - sum(site.d_out * site.d_in for site in sites)
    return width * others + sum(
        _quantised_bytes(site.d_out * site.d_in, site.d_out, bits, double_quant) for site in sites
    )


def optimizer_bytes(plan: SharingPlan, optimizer: str, extra_trainable: int = 0) -> int:
    """Return the bytes of an optimizer's state.

    Raises:
        UserError: an optimizer that is not in the table.
    """
    if optimizer == FACTORED:
        # Of the last two dimensions one sum per row and one per column: for a kernel, of each of its positions.
        factors = (prod(shape[:-1]) + prod(shape[:-2]) * shape[-1] for shape in plan.matrices.values())
        return 4 * sum(factors) + 4 * extra_trainable
    if optimizer not in STATES:
        known = ", ".join((*STATES, FACTORED))
        raise UserError(f"no memory estimate for optimizer {optimizer!r}; need one of {known}; choose with --optim")
    return ceil(STATES[optimizer] * (plan.num_parameters + extra_trainable))


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
    share_dropout_mask: bool = False,
    double_quant: bool = True,
    extra_trainable: int = 0,
    eval_batch: int = 0,
    padded: bool | None = None,
    device: str = "cpu",
) -> Estimate:
    """Estimate the memory of training adapters on a frozen base.

    It assumes: matrices, their gradients and the optimizer's state in fp32; gradients that accumulate over several
    batches, in place; attention that never writes its (T, T) scores; the fast kernels of this project; one process.
    Mixtures of experts are counted as if dense, mixed precision (autocast) as the full precision of its weights.
    Without the runtime it is within a tenth of the tensors that a step allocates (tested), on a CPU of the peak of the
    resident set where the C library returns freed blocks (docs/results/memory.md); blocks that it keeps come on top.

    Args:
        model: the base, usually on the meta device.
        plan: which matrices there are.
        bits: of the base: 4, 8, 16 or 32.
        dtype: of activations and of the unquantised part: `bf16`, `fp16`, `fp32`.
        batch: B, examples per forward pass.
        tokens: T, the longest example.
        optimizer: its name in transformers' `optim`.
        checkpointing: whether activations are computed again in the backward pass.
        lora_dropout: dropout of the adapters.
        share_dropout_mask: whether modules that read the same input share a mask.
        double_quant: see `base_bytes`.
        extra_trainable: elements trained in addition to the adapters, e.g. a classifier.
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
    shape = activations.shape_of(model)
    padded = batch > 1 if padded is None else padded
    load = Workload(batch, tokens, width, lora_dropout, share_dropout_mask, device, padded)
    trained = plan.num_parameters + extra_trainable
    state = optimizer_bytes(plan, optimizer, extra_trainable)
    count = sum(parameter.numel() for parameter in model.parameters())
    base = base_bytes(model, bits, dtype, double_quant)
    sites = _quantisable(model)
    largest = max(site.d_out * site.d_in for site in sites) if bits < 16 else 0
    # Quantised layers are unpacked one at a time.
    unpacked = width * largest
    active = activations.peak(shape, plan, load, checkpointing, sites if bits == 8 else ())
    runtime = RUNTIME[device]
    items = (
        Item("base", base, f"{count:,} parameters, {bits if bits < 16 else 8 * width}-bit"),
        Item("adapter", 4 * trained, f"{trained:,} parameters, fp32"),
        Item("gradients", 4 * trained, "fp32"),
        Item("optimizer", state, optimizer),
        Item(
            "activations",
            active,
            f"{batch} x {tokens} tokens, {'layer inputs, one layer at a time' if checkpointing else 'all layers'}",
        ),
        Item("unpacked", unpacked, f"the largest {bits}-bit layer while it is used"),
        Item("runtime", runtime, "Python, torch and libraries"),
    )
    evaluation = loading = None
    if eval_batch:
        forward = activations.evaluation(shape, Workload(eval_batch, tokens, width))
        total = runtime + base + 4 * trained + state + unpacked + forward
        evaluation = Item("evaluation", total, f"in evaluations, {eval_batch} x {tokens} tokens")
    # Of a weight in the file; where the configuration names no dtype it has 16 bits.
    stored_width = getattr(getattr(getattr(model, "config", None), "dtype", None), "itemsize", 2)
    # Weights of the right dtype are used where they are in the mapped file, without a conversion.
    if device == "cpu" and (bits < 16 or stored_width != width):
        file = stored_width * count
        note = f"while the base is loaded; {size(file)} of it are the file, which can leave memory at any time"
        loading = Item("loading", RUNTIME["cpu"] + base + file + _QUANTISING.get(bits, 0) * largest, note)
    freed = ceil(KEPT_BLOCKS[device] * active)
    allowance = Item("freed blocks", freed, "that the allocator may keep on top of the total")
    file_bytes = plan.file_bytes + 4 * extra_trainable
    return Estimate(
        tuple(item for item in items if item.bytes),
        file_bytes,
        file_bytes + state,
        evaluation,
        loading,
        allowance,
        device,
    )
