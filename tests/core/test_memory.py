"""Estimates add up, follow what changes, and are compared with the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_models import adapted, llama

from sharelora.memory.estimator import Estimate, Item, base_bytes, estimate, optimizer_bytes
from sharelora.memory.machine import Gpu, Machine, machine
from sharelora.models.known import meta_model
from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.support.errors import UserError
from sharelora.support.text import size
from sharelora.tuner.sites import find_sites

GB = 10**9


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return meta_model("llama3-8b")


@pytest.fixture(scope="module")
def plan(model: nn.Module) -> SharingPlan:
    return SharingPlan.build(find_sites(model), SharingRule("a"), 64)


def items(need: Estimate) -> dict[str, int]:
    return {item.name: item.bytes for item in need.items}


def test_the_parts_follow_from_the_counts(model: nn.Module, plan: SharingPlan) -> None:
    need = estimate(model, plan)
    parts = items(need)
    assert need.total == sum(parts.values())
    assert parts["base"] == 2 * 8_030_261_248
    assert parts["adapter"] == parts["gradients"] == 4 * 90_570_752
    assert parts["optimizer"] == 8 * 90_570_752
    assert 0 < need.adapter_file - 4 * 90_570_752 < 10**5
    assert need.checkpoint == need.adapter_file + parts["optimizer"]


@pytest.mark.parametrize(("bits", "low", "high"), [(32, 32.1, 32.2), (16, 16.0, 16.1), (8, 9.0, 9.2), (4, 5.6, 5.8)])
def test_a_base_by_precision(model: nn.Module, bits: int, low: float, high: float) -> None:
    assert low * GB < base_bytes(model, bits, "bf16") < high * GB


def test_double_quantisation_saves_its_constants(model: nn.Module) -> None:
    linear = 8_030_261_248 - 2 * 128256 * 4096 - 65 * 4096
    saved = base_bytes(model, 4, "bf16", double_quant=False) - base_bytes(model, 4, "bf16")
    assert saved == pytest.approx(linear / 64 * (4 - 1 - 4 / 256), rel=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_bases_take_what_bitsandbytes_allocates(bits: int) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    base = llama(layers=2, hidden=64).bfloat16()
    need = base_bytes(base, bits, "bf16")
    linear = [m for name, m in base.named_modules() if isinstance(m, nn.Linear) and name != "lm_head"]
    found = 2 * (sum(p.numel() for p in base.parameters()) - sum(m.weight.numel() for m in linear))
    for module in linear:
        if bits == 8:
            found += module.weight.numel() + 4 * module.out_features
            continue
        packed, state = bnb.functional.quantize_4bit(module.weight.data, quant_type="nf4", compress_statistics=True)
        found += packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert need == found


def test_sharing_saves_adapter_gradients_and_optimizer_alone(model: nn.Module, plan: SharingPlan) -> None:
    lora = SharingPlan.build(find_sites(model), SharingRule(), 64)
    ours, theirs = items(estimate(model, plan)), items(estimate(model, lora))
    assert {name for name in ours if ours[name] != theirs[name]} == {"adapter", "gradients", "optimizer"}
    assert theirs["optimizer"] - ours["optimizer"] == 8 * (167_772_160 - 90_570_752)


@pytest.mark.parametrize("change", [{"batch": 2}, {"tokens": 1024}, {"checkpointing": False}, {"dtype": "fp32"}])
def test_more_of_anything_takes_more_activations(model: nn.Module, plan: SharingPlan, change: dict[str, Any]) -> None:
    more, plain = items(estimate(model, plan, **change)), items(estimate(model, plan))
    assert more["activations"] > plain["activations"]


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"), [("adamw_torch", 8), ("paged_adamw_8bit", 2.03125), ("sgd", 0), ("lion_32bit", 4)]
)
def test_optimizers_by_their_state(plan: SharingPlan, optimizer: str, bytes_each: float) -> None:
    assert optimizer_bytes(plan, optimizer) == bytes_each * plan.num_parameters


def test_adamw_really_keeps_eight_bytes_per_element() -> None:
    tuned = adapted(llama(), share="a")
    tuned(input_ids=torch.ones(1, 4, dtype=torch.long), labels=torch.ones(1, 4, dtype=torch.long)).loss.backward()
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad])
    optimizer.step()
    kept = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.ndim)
    assert kept == optimizer_bytes(tuned.base_model.plans["default"], "adamw_torch")


def test_factored_state_grows_with_rows_and_columns(plan: SharingPlan) -> None:
    assert optimizer_bytes(plan, "adafactor") == 4 * sum(sum(shape) for shape in plan.matrices.values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "adam"}, "no memory estimate for optimizer 'adam'"),
        ({"bits": 3}, "found bits 3"),
        ({"dtype": "fp8"}, "dtype fp8"),
        ({"tokens": 0}, "at least one token"),
    ],
)
def test_what_is_unknown_is_refused(model: nn.Module, plan: SharingPlan, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        estimate(model, plan, **wrong)


def test_evaluations_with_large_batches_can_need_more_than_a_step(model: nn.Module, plan: SharingPlan) -> None:
    need = estimate(model, plan, tokens=1024, eval_batch=32)
    assert need.evaluation is not None and need.total == need.evaluation.bytes > need.step
    assert need.describe().endswith("in evaluations, 32 x 1024 tokens")
    # A row more needs the widest activations of a layer; however many rows, the logits are those of a chunk.
    less = estimate(model, plan, tokens=1024, eval_batch=31)
    assert less.evaluation is not None
    assert need.evaluation.bytes - less.evaluation.bytes == 2 * 1024 * (2 * 4096 + 3 * 14336)
    assert estimate(model, plan, tokens=1024).evaluation is None and less.own < less.total


def test_the_file_counts_while_a_base_is_converted_and_decides_about_nothing(
    model: nn.Module, plan: SharingPlan
) -> None:
    need = estimate(model, plan, bits=4)
    assert need.loading is not None and need.loading.bytes > 2 * 8_030_261_248 + base_bytes(model, 4, "bf16")
    assert need.total == need.step < need.loading.bytes
    assert estimate(model, plan, bits=16).loading is None
    assert estimate(model, plan, bits=4, device="cuda").loading is None


def test_an_estimate_is_compared_with_free_memory_and_disk() -> None:
    need = Estimate((Item("base", 5 * GB, "x"), Item("runtime", GB, "y")), adapter_file=10**6, checkpoint=2 * GB)
    cpu = Machine(ram=16 * GB, ram_free=6 * GB, disk_free=2 * GB)
    assert need.fits(cpu) and "6.00 GB" in need.verdict(cpu) and need.verdict(cpu).endswith(": fits")
    assert not need.fits(replace(cpu, ram_free=6 * GB - 1))
    assert not need.fits(replace(cpu, disk_free=GB))
    assert not replace(need, allowance=Item("freed blocks", 1, "z")).fits(cpu)
    gpu = replace(cpu, gpus=(Gpu("one", 8 * GB, 4 * GB), Gpu("two", 8 * GB, 3 * GB)))
    assert (gpu.device, gpu.free("cuda"), gpu.free("cpu")) == ("cuda", 7 * GB, 6 * GB)
    assert (cpu.device, cpu.free("cuda"), cpu.free("cpu")) == ("cpu", 0, 6 * GB)
    there = replace(need, device="cuda")
    assert there.fits(replace(gpu, ram_free=0)) and not there.fits(cpu)
    assert "does NOT fit" in there.verdict(replace(gpu, gpus=gpu.gpus[:1]))
    # A run with --use_cpu beside GPUs takes nothing of theirs.
    assert need.fits(replace(gpu, gpus=gpu.gpus[:1])) and not need.fits(replace(gpu, ram_free=0))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_estimate_knows_whose_memory_it_counts(model: nn.Module, plan: SharingPlan, device: str) -> None:
    assert estimate(model, plan, device=device).device == device


def test_the_table_names_every_part_and_the_files(model: nn.Module, plan: SharingPlan) -> None:
    need = estimate(model, plan, bits=4)
    lines = need.table().splitlines()
    names = [line.split("  ")[0] for line in lines[len(need.items) :]]
    assert names == ["total", "loading", "freed blocks", "adapter file", "checkpoint"]
    assert len(lines) == len(need.items) + 5 and size(need.total) in need.table()


def test_this_machine_is_described(tmp_path: Path) -> None:
    here = machine(tmp_path / "not" / "there" / "yet")
    assert 0 < here.ram_free <= here.ram and here.disk_free > 0
    assert "RAM free" in here.describe()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_400, "999 kB"),
        (999_600, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (5.7e9, "5.70 GB"),
        (2e12, "2.00 TB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes_have_three_digits(count: float, text: str) -> None:
    assert size(count) == text
