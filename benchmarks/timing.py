"""Times of training steps that can be compared: the variants take turns, and a loaded machine is noticed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from benchmarks.variants import attach, autocast, trainable

# Above this share of the machine in use by others, times mean little.
BUSY_PERCENT = 15.0


@dataclass(frozen=True)
class Sample:
    """One training step in seconds: forward and backward, and the optimizer's part."""

    step: float
    update: float


@dataclass(frozen=True)
class Spread:
    """Median, quartiles and least of several measurements."""

    median: float
    low: float
    high: float
    least: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Describe some measurements, at least one."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(statistics.median(values), low, high, min(values), len(values))

    def data(self) -> dict[str, float]:
        """Return the fields as JSON data."""
        return asdict(self)


class TrainStep:
    """A model with its data and optimizer, ready to be stepped.

    Args:
        model: an adapted model, or the frozen base.
        name: its variant.
        batch: what `benchmarks.bases.random_batch` returns.
    """

    def __init__(self, model: nn.Module, name: str, batch: dict[str, Tensor]) -> None:
        self.model, self.name, self.batch = model, name, batch
        self.device = batch["labels"].device
        self.parameters = trainable(model)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5) if self.parameters else None

    @classmethod
    def of(cls, model: nn.Module, name: str, adapter: Any, batch: dict[str, Tensor]) -> TrainStep:
        """Attach a variant's adapters to a model and make it ready."""
        return cls(attach(model, name, adapter), name, batch)

    def forward_backward(self) -> float:
        """Compute all gradients and return the loss."""
        with autocast(self.name, self.device):
            loss = self.model(**self.batch, use_cache=False).loss
        loss.backward()
        return float(loss.detach())

    def update(self) -> None:
        """Let the optimizer use the gradients, and drop them."""
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.batch["inputs_embeds"].grad = None

    def sample(self) -> Sample:
        """Run one step and time it."""
        began = now(self.device)
        self.forward_backward()
        between = now(self.device)
        self.update()
        return Sample(between - began, now(self.device) - between)


def now(device: torch.device) -> float:
    """Return the clock in seconds when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interleave(steps: Mapping[str, TrainStep], rounds: int, warmup: int = 2) -> dict[str, list[Sample]]:
    """Step all variants in turn, several times, each round starting with another one.

    What else happens on the machine then falls on all of them alike, and values of one round can be divided.

    Args:
        steps: variant -> what to step.
        rounds: measured rounds.
        warmup: rounds before them that are not measured.
    """
    names, samples = list(steps), {name: [] for name in steps}  # type: tuple[list[str], dict[str, list[Sample]]]
    for number in range(-warmup, rounds):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            sample = steps[name].sample()
            if number >= 0:
                samples[name].append(sample)
    return samples


def ratio(these: Sequence[Sample], those: Sequence[Sample]) -> Spread:
    """Return how many times longer these steps took than those of the same rounds."""
    return Spread.of([a.step / b.step for a, b in zip(these, those, strict=True)])


@dataclass
class OtherLoad:
    """How much of the CPU others used while the block ran; `percent` holds it afterwards."""

    percent: float = field(default=0.0, init=False)

    def __enter__(self) -> OtherLoad:
        self._before = self._read()
        return self

    def __exit__(self, *exc: object) -> None:
        wall, used, own = (after - before for after, before in zip(self._read(), self._before, strict=True))
        self.percent = round(max(0.0, 100 * (used - own) / max(wall * (psutil.cpu_count() or 1), 1e-9)), 1)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # Time of guests is counted in user time as well.
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return time.perf_counter(), sum(times) - idle - guests, own.user + own.system


def others_now(seconds: float = 1.0) -> float:
    """Return the percentage of this machine's CPU that others use at the moment."""
    with OtherLoad() as load:
        time.sleep(seconds)
    return load.percent


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int, repeats: int = 10) -> float:
    """Return the rate of a square matrix product on random data in TFLOP/s, the ceiling for everything else here."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(3 + repeats):
        began = now(device)
        left @ right
        seconds.append(now(device) - began)
    return 2 * size**3 / statistics.median(seconds[3:]) / 1e12
