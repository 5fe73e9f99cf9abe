"""Real jobs under DeepSpeed's ZeRO in two processes over gloo: they train, save and go on as one process does."""

from __future__ import annotations

import importlib.util
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from together import (
    ADAPTER,
    STATE,
    Worker,
    alike,
    curve,
    dealt,
    files,
    last_step,
    measured,
    nothing_damaged,
    together,
    weights,
    went_well,
)

from sharelora.trainer.serialization import load_state
from sharelora.tuner.quantization import has_bitsandbytes

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.timeout(280),
    pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="deepspeed is not installed"),
    pytest.mark.skipif(not (shutil.which("ninja") and shutil.which("g++")), reason="ninja or g++ is not on the path"),
]


def zero(stage: int) -> dict[str, str]:
    """What `accelerate launch` leaves of scripts/accelerate/deepspeed_zero2.yaml or deepspeed_zero3.yaml."""
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    }


@pytest.fixture(scope="module")
def calm(words: list[str]) -> list[str]:
    """The run; DeepSpeed uses CPUs by itself where there are no GPUs."""
    return [word for word in words if word != "--use_cpu"]


def same_state(first: Path, second: Path) -> None:
    """Two runs' last checkpoints have optimizers and schedules of the same form, and of the same values within fp32."""
    one, two = (load_state(out / "checkpoint-12" / STATE) for out in (first, second))
    assert one["optimizer"]["param_groups"] == two["optimizer"]["param_groups"]
    assert one["scheduler"] == two["scheduler"]
    states = [found["optimizer"]["state"] for found in (one, two)]
    assert list(states[0]) == list(states[1]) and len(states[0]) > 3
    for index, values in states[0].items():
        assert list(values) == list(states[1][index]) == ["step", "exp_avg", "exp_avg_sq"]
        for name, value in values.items():
            torch.testing.assert_close(states[1][index][name], value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))


def norms(out: Path) -> dict[str, Any]:
    """The last line's gradient norms."""
    line = next(line for line in reversed(curve(out)) if "loss" in line)
    return {name: value for name, value in line.items() if name.startswith("grad_norm")}


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("share", ["a", "ab"])
def test_it_trains_what_one_process_does(
    worker: Worker, calm: list[str], tmp_path: Path, stage: int, share: str
) -> None:
    """Weights, losses, gradient norms before clipping, optimizer and files, with clipping and checkpointing."""
    calm = [*calm, "--share", share, "--gradient_checkpointing", "true", "--max_grad_norm", "0.2"]
    one, two = tmp_path / "one", tmp_path / "two"
    went_well([worker.run([*calm, *dealt(8, 1), "--output_dir", str(one)])])
    ended = together(worker, [*calm, *dealt(2, 2), "--output_dir", str(two)], environment=zero(stage))
    went_well(ended)
    alike(one, two)
    same_state(one, two)
    assert len(norms(one)) > 3 and norms(one) == pytest.approx(norms(two), rel=1e-3)
    assert norms(one)["grad_norm"] > 0.2
    assert files(one) == files(two)
    assert "step 12/12" in ended[0].log and "step" not in ended[1].log.replace("steps", "")


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("zero_first", [True, False])
def test_runs_go_on_with_and_without_it(
    worker: Worker, calm: list[str], alone: Path, tmp_path: Path, stage: int, zero_first: bool
) -> None:
    """Its checkpoints are those of one process."""
    out = ["--output_dir", str(tmp_path / "out")]
    for by_zero, faults in ((zero_first, {"signals": ["on_step_begin", 6, [signal.SIGTERM]]}), (not zero_first, {})):
        count, environment = (2, zero(stage)) if by_zero else (1, None)
        run = [*calm, *dealt(8 // count, 1), *out]
        went_well(together(worker, run, environment=environment, count=count, **faults))
    alike(alone, tmp_path / "out")
    same_state(alone, tmp_path / "out")


@pytest.mark.parametrize("stage", [2, 3])
def test_it_goes_on_bit_by_bit(worker: Worker, calm: list[str], tmp_path: Path, stage: int) -> None:
    """With dropout, after a signal to one of two processes."""
    calm = [*calm, *dealt(4, 1), "--lora_dropout", "0.1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    went_well(together(worker, [*calm, "--output_dir", str(whole)], environment=zero(stage)))
    for faults in ({"signals": ["on_step_begin", 6, [signal.SIGTERM]]}, {}):
        went_well(together(worker, [*calm, "--output_dir", str(stopped)], environment=zero(stage), **faults))
    assert (whole / ADAPTER).read_bytes() == (stopped / ADAPTER).read_bytes()
    assert (whole / "checkpoint-12" / STATE).read_bytes() == (stopped / "checkpoint-12" / STATE).read_bytes()
    assert curve(whole) == curve(stopped)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_loss_that_is_no_number_stops_both(worker: Worker, calm: list[str], tmp_path: Path, stage: int) -> None:
    calm = [*calm, *dealt(4, 1), "--eval_strategy", "no", "--do_eval", "false", "--output_dir", str(tmp_path / "out")]
    ended = together(worker, calm, environment=zero(stage), infinite_loss=6)
    assert [end.code for end in ended] == [2, 2], ended[0].log[-2000:]
    assert all("at update 6, on rows" in end.log and "checkpoint-4" in end.log for end in ended)
    assert last_step(tmp_path / "out") == 4
    nothing_damaged(tmp_path / "out")


@pytest.mark.parametrize("stage", [2, 3])
def test_an_update_that_is_left_out_changes_nothing_else(
    worker: Worker, calm: list[str], tmp_path: Path, stage: int
) -> None:
    """The same as with DDP: weights, optimizer and schedule."""
    calm = [*calm, *dealt(4, 1), "--eval_strategy", "no", "--do_eval", "false", "--on_nan", "skip"]
    one, two = tmp_path / "ddp", tmp_path / "zero"
    for out, environment in ((one, None), (two, zero(stage))):
        run = [*calm, "--output_dir", str(out)]
        went_well(together(worker, run, environment=environment, infinite_loss=6))
        assert measured(out)["skipped_updates"] == 1
    alike(one, two)
    same_state(one, two)


@pytest.mark.skipif(not has_bitsandbytes(), reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", ["4", "8"])
def test_a_quantised_base_under_zero2(worker: Worker, calm: list[str], tmp_path: Path, bits: str) -> None:
    calm = [*calm, "--bits", bits, "--share", "a"]
    went_well([worker.run([*calm, *dealt(8, 1), "--output_dir", str(tmp_path / "one")])])
    went_well(together(worker, [*calm, *dealt(4, 1), "--output_dir", str(tmp_path / "two")], environment=zero(2)))
    # A quantised base on a CPU computes in half precision.
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-3
