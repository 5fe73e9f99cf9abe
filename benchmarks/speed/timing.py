"""Times of training steps that can be compared: the variants take turns on one machine."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.harness.machine import OtherLoad
from benchmarks.speed.variants import Adapter, attach, autocast, trainable


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
        batch: as `bases.random_batch` returns.
    """

    def __init__(self, model: nn.Module, name: str, batch: dict[str, Tensor]) -> None:
        self.model, self.name, self.batch = model, name, batch
        self.device = batch["labels"].device
        self.parameters = trainable(model)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5) if self.parameters else None

    @classmethod
    def of(cls, model: nn.Module, name: str, adapter: Adapter, batch: dict[str, Tensor]) -> TrainStep:
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
        for value in self.batch.values():
            value.grad = None

    def sample(self) -> Sample:
        """Run one step and time it."""
        began = now(self.device)
        self.forward_backward()
        between = now(self.device)
        self.update()
        return Sample(between - began, now(self.device) - between)


class Timed(Protocol):
    """What can be timed."""

    def sample(self) -> Sample:
        """Run once and time it."""
        ...


def now(device: torch.device) -> float:
    """Return the clock in seconds once the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interleave(steps: Mapping[str, Timed], rounds: int, warmup: int = 2) -> dict[str, list[Sample]]:
    """Step all variants in turn, several times, each round starting with another one.

    What else happens on the machine then falls on all of them alike, and values of one round can be divided.

    Args:
        steps: variant -> what to step.
        rounds: measured rounds.
        warmup: rounds before them that are not measured.
    """
    names = list(steps)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        for index in range(len(names)):
            name = names[(number + index) % len(names)]
            sample = steps[name].sample()
            if number >= 0:
                samples[name].append(sample)
    return samples


def ratio(these: Sequence[Sample], those: Sequence[Sample]) -> Spread:
    """Return how many times longer these steps took than those of the same rounds."""
    return Spread.of([a.step / b.step for a, b in zip(these, those, strict=True)])


def describe(name: str, samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Return a variant's times, and its ratios to the floor and to PEFT where these were measured too."""
    own = samples[name]
    floor, peft = samples.get("floor"), samples.get("peft")
    return {
        "step": Spread.of([sample.step for sample in own]).data(),
        "optimizer": Spread.of([sample.update for sample in own]).data(),
        "to_floor": ratio(own, floor).data() if floor else None,
        # How many times faster than PEFT.
        "speedup": ratio(peft, own).data() if peft else None,
    }


def measure_in_turn(title: str, steps: Mapping[str, Timed], rounds: int) -> tuple[dict[str, list[Sample]], float]:
    """Announce a measurement, step all variants in turn and watch the load of others meanwhile.

    Returns:
        The samples of each variant, and the percentage of the CPU that others used.
    """
    print(f"measuring {title}: {', '.join(steps)}", file=sys.stderr, flush=True)
    with OtherLoad() as load:
        samples = interleave(steps, rounds)
    return samples, load.percent


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int, repeats: int = 10) -> float:
    """Return the rate of a square matrix product on random data in TFLOP/s, the ceiling for everything else here."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(3 + repeats):
        began = now(device)
        left @ right
        seconds.append(now(device) - began)
    return 2 * size**3 / statistics.median(seconds[3:]) / 1e12
