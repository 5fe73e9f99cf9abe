"""Ways to make the loss of one causal model, ready to be stepped in turn, and the peak memory of each."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from benchmarks.harness.machine import Peak
from benchmarks.harness.report import ROOT
from benchmarks.speed.bases import twin
from benchmarks.speed.steps import ALPACA, LossCell
from benchmarks.speed.timing import Spread, TrainStep, measure_in_turn, ratio
from benchmarks.speed.variants import Adapter, attach
from sharelora.data.token_rows import IGNORED
from sharelora.support.errors import UserError
from sharelora.trainer.token_loss import TokenLoss, mean_per_target

QUERY_AND_VALUE = ("q_proj", "v_proj")
_STEPS = 2  # to the peak

Loss = Callable[[Any, dict[str, Tensor]], Tensor]


def _whole(model: Any) -> Loss:
    return lambda adapted, batch: adapted(**batch, use_cache=False).loss


def _chunks(model: Any) -> Loss:
    """Our trainer's loss. The way a model treats its logits is looked at in the first batch, which warms up."""
    token_loss = TokenLoss(model)

    def loss(adapted: Any, batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with token_loss.watching(batch["labels"]):
            return mean_per_target(token_loss.losses(adapted(**inputs, use_cache=False)), batch["labels"], None)

    return loss


def _trl(model: Any) -> Loss:
    from trl.trainer.utils import add_fused_lm_head  # installed by hand

    add_fused_lm_head(model)
    return lambda adapted, batch: adapted(**batch, fused_lm_head=True).loss


def _liger(model: Any) -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # installed by hand, for GPUs

    compute = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED)

    def loss(adapted: Any, batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        return compute(model.get_output_embeddings().weight, hidden, batch["labels"][:, 1:].flatten())

    return loss


@dataclass(frozen=True)
class Way:
    """How a step is made.

    Attributes:
        variant: of the adapters, a key of `variants.VARIANTS`.
        loss: takes the base, before it is adapted, and returns what computes the loss of the adapted model.
        needs: a package that has to be installed.
        gpu: whether it runs on GPUs alone.
    """

    variant: str
    loss: Callable[[Any], Loss]
    needs: str | None = None
    gpu: bool = False


WAYS: Mapping[str, Way] = {
    "peft": Way("peft", _whole),
    "trl": Way("peft", _trl, needs="trl"),
    "liger": Way("peft", _liger, needs="liger_kernel", gpu=True),
    "logits": Way("none", _whole),
    "none": Way("none", _chunks),
    "a": Way("a", _chunks),
}


def present(names: Sequence[str], named: bool, device: str) -> list[str]:
    """Return the ways that can be measured here.

    Args:
        names: keys of `WAYS`.
        named: whether the user has named them.
        device: cpu or cuda.

    Raises:
        UserError: one that was named cannot be had.
    """

    def missing(way: Way) -> str | None:
        if way.gpu and device == "cpu":
            return "a GPU"
        return way.needs if way.needs and importlib.util.find_spec(way.needs) is None else None

    absent = {name: what for name in names if (what := missing(WAYS[name]))}
    if named and absent:
        name, what = next(iter(absent.items()))
        raise UserError(f"{name} needs {what}, which is not here; install it or leave {name} out of --ways")
    return [name for name in names if name not in absent]


def load(model: str | None, vocab: int, small: bool, device: torch.device) -> Any:
    """Return a frozen base in bf16 with the first `vocab` rows of its embedding.

    Raises:
        UserError: the model has fewer.
    """
    base: Any
    if model is None:
        size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2} if small else {}
        config = Gemma3TextConfig(**{**GEMMA, **size, "vocab_size": vocab})
        with torch.device(device):
            base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    else:
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        base.to(device)
        own = base.config.get_text_config().vocab_size
        if vocab > own:
            raise UserError(f"found --vocab {vocab}; {model} has {own}; need at most that; name smaller ones")
        if vocab < own:
            base.resize_token_embeddings(vocab)
    return base.requires_grad_(False).train()


# Gemma 3 270M.
GEMMA: dict[str, Any] = {
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "sliding_window": 512,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}


def batch_of(cell: LossCell, device: torch.device) -> dict[str, Tensor]:
    """Return random tokens, (B, T), with the mask and the labels of a cell's rows."""
    rows = ALPACA if cell.rows == "alpaca" else ((cell.tokens, cell.tokens),) * cell.batch
    longest = max(tokens for tokens, _ in rows)
    # Above the tokens that mean something to a model, such as padding.
    inputs = torch.randint(16, cell.vocab, (len(rows), longest), generator=torch.Generator().manual_seed(0))
    mask, labels = torch.zeros_like(inputs), torch.full_like(inputs, IGNORED)
    for row, (tokens, answer) in enumerate(rows):
        mask[row, :tokens] = 1
        labels[row, tokens - answer : tokens] = inputs[row, tokens - answer : tokens]
    batch = {"input_ids": inputs, "attention_mask": mask, "labels": labels}
    return {name: value.to(device) for name, value in batch.items()}


class LossStep(TrainStep):
    """A training step whose loss is made in a way of its own."""

    def __init__(self, base: nn.Module, name: str, cell: LossCell, batch: dict[str, Tensor]) -> None:
        torch.manual_seed(0)
        way = WAYS[name]
        if cell.checkpointing:
            cast(Any, base).gradient_checkpointing_enable({"use_reentrant": False})
        self.loss_of = way.loss(base)
        adapted = attach(base, way.variant, Adapter(cell.rank, 0.0, QUERY_AND_VALUE))
        super().__init__(adapted, way.variant, batch)
        self.first: float | None = None  # before any update, so that all ways can be compared

    def forward_backward(self) -> float:
        """Compute all gradients and return the loss."""
        loss = self.loss_of(self.model, self.batch)
        loss.backward()
        value = float(loss.detach())
        if self.first is None:
            self.first = value
        return value


def compare(
    cell: LossCell,
    ways: Sequence[str],
    device: torch.device,
    rounds: int,
    model: str | None = None,
    small: bool = False,
    memory: bool = True,
) -> dict[str, Any]:
    """Measure one configuration.

    Args:
        cell: the configuration.
        ways: keys of `WAYS`.
        device: of the model.
        rounds: measured rounds.
        model: folder of the base; None for random weights.
        small: whether a base with random weights is a small one.
        memory: whether to measure peak memory: on a CPU in a process per way.
    """
    base, batch = load(model, cell.vocab, small, device), batch_of(cell, device)
    steps: dict[str, LossStep] = {name: LossStep(twin(base), name, cell, batch) for name in ways}
    samples, others = measure_in_turn(cell.title(), steps, rounds)
    tokens = int(batch["attention_mask"].sum())
    peft, rows = samples.get("peft"), {}
    for name in ways:
        step = Spread.of([sample.step for sample in samples[name]])
        rows[name] = {
            "step": step.data(),
            "tokens_per_second": tokens / step.median,
            "faster": ratio(peft, samples[name]).data() if peft else None,
            "loss": steps[name].first,
        }
        if memory and device.type == "cuda":
            rows[name]["memory"] = _peak(steps[name])
    # Their memory would be missing from what is measured next.
    del steps, base
    if memory and device.type != "cuda":
        for name in ways:
            rows[name]["memory"] = measure_apart(cell, name, model, small)
    return {"cell": cell.data(), "others_percent": others, "ways": rows}


def _peak(step: LossStep) -> int:
    peak = Peak(step.device)
    for _ in range(_STEPS):
        step.sample()
    return peak.read()


def measure_apart(cell: LossCell, name: str, model: str | None, small: bool) -> int:
    """Build a way on the CPU in a fresh process, which runs this module, train a few steps and return the peak bytes.

    Raises:
        UserError: the process failed; the message ends with its last line.
    """
    request = {"cell": cell.data(), "name": name, "model": model, "small": small, "threads": torch.get_num_threads()}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.losses"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"measuring the memory of {name} failed: {last}; leave it out with --no-memory")
    return int(done.stdout.splitlines()[-1])


def _answer(request: dict[str, Any]) -> None:
    torch.set_num_threads(request["threads"])
    cell, device = LossCell(**request["cell"]), torch.device("cpu")
    base = load(request["model"], cell.vocab, request["small"], device)
    print(_peak(LossStep(base, request["name"], cell, batch_of(cell, device))))


if __name__ == "__main__":
    _answer(json.load(sys.stdin))
