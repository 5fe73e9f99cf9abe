"""Real jobs in two processes over gloo: what they train, save and say, how they stop together and how they go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from together import (
    ADAPTER,
    GLUE,
    ROOT,
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

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(280)]

# As `accelerate launch --config_file scripts/accelerate/fsdp2.yaml` leaves it.
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


@pytest.mark.parametrize(("batch", "accumulation", "order"), [(4, 1, "group_by_length"), (2, 2, "random")])
def test_two_processes_train_what_one_does(
    worker: Worker, words: list[str], alone: Path, tmp_path: Path, batch: int, accumulation: int, order: str
) -> None:
    """An epoch's last update has fewer rows than the processes' batches take: nothing counts twice."""
    out, more = tmp_path / "two", ["--train_sampling_strategy", order]
    if order != "group_by_length":
        alone = tmp_path / "one"
        went_well([worker.run([*words, *more, *dealt(8, 1), "--output_dir", str(alone)])])
    ended = together(worker, [*words, *more, *dealt(batch, accumulation), "--output_dir", str(out)])
    went_well(ended)
    alike(alone, out)
    found = [measured(path) for path in (alone, out)]
    for name in ("train_loss", "eval_loss", "eval_loss_before"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4)
    assert found[0]["eval_tokens"] == found[1]["eval_tokens"] and found[0]["steps"] == found[1]["steps"] == 12
    assert files(alone) == files(out)
    assert "step 12/12" in ended[0].log and "step" not in ended[1].log  # the first process alone speaks
    states = load_state(out / "checkpoint-12" / STATE)["processes"]
    assert len(states) == 2 and not torch.equal(states[0]["random"]["torch"], states[1]["random"]["torch"])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_processes_goes_on(
    worker: Worker, words: list[str], alone: Path, tmp_path: Path, before: int, after: int
) -> None:
    """In the middle of an epoch, after an update of which no checkpoint was due."""
    out = ["--output_dir", str(tmp_path / "out")]
    stop = {"signals": ["on_step_begin", 6, [signal.SIGTERM]]}
    first = together(worker, [*words, *dealt(8 // before, 1), *out], count=before, **stop)
    went_well(first)
    assert last_step(tmp_path / "out") == 6
    second = together(worker, [*words, *dealt(8 // after, 1), *out], count=after)
    went_well(second)
    assert f"number of processes: {after}, before {before}" in second[0].log
    alike(alone, tmp_path / "out")


def test_a_signal_to_one_process_stops_both_and_nothing_is_lost(
    worker: Worker, words: list[str], tmp_path: Path
) -> None:
    """With dropout: both go on with their own random numbers, bit by bit."""
    words = [*words, *dealt(4, 1), "--lora_dropout", "0.1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    went_well(together(worker, [*words, "--output_dir", str(whole)]))
    ended = together(worker, [*words, "--output_dir", str(stopped)], signals=["on_step_begin", 6, [signal.SIGTERM]])
    went_well(ended)
    assert all("checkpoint-6 has everything" in end.log for end in ended)
    went_well(together(worker, [*words, "--output_dir", str(stopped)]))
    assert (whole / ADAPTER).read_bytes() == (stopped / ADAPTER).read_bytes()
    last = "checkpoint-12"
    assert (whole / last / STATE).read_bytes() == (stopped / last / STATE).read_bytes()
    assert curve(whole) == curve(stopped)


@pytest.mark.parametrize("mode", ["stop", "skip"])
def test_a_loss_of_one_process_that_is_no_number_concerns_both(
    worker: Worker, words: list[str], tmp_path: Path, mode: str
) -> None:
    out = tmp_path / "out"
    words = [*words, *dealt(4, 1), "--eval_strategy", "no", "--do_eval", "false", "--output_dir", str(out)]
    ended = together(worker, [*words, "--on_nan", mode], infinite_loss=6)
    if mode == "stop":
        assert [end.code for end in ended] == [2, 2]
        assert all("at update 6, on rows" in end.log and "checkpoint-4" in end.log for end in ended)
    else:
        went_well(ended)
        assert measured(out)["skipped_updates"] == 1
    nothing_damaged(out)


def test_processes_that_drift_apart_are_stopped(worker: Worker, words: list[str], tmp_path: Path) -> None:
    """By the last bits of one weight; what they hold is not saved."""
    ended = together(worker, [*words, *dealt(4, 1), "--output_dir", str(tmp_path / "out")], drift=6)
    assert [end.code for end in ended] == [2, 2]
    assert all("after update 8 process 1 of 2 holds other weights" in end.log for end in ended)
    assert last_step(tmp_path / "out") == 4
    nothing_damaged(tmp_path / "out")


@pytest.mark.skipif(not has_bitsandbytes(), reason="bitsandbytes is not installed")
def test_a_4_bit_base(worker: Worker, words: list[str], tmp_path: Path) -> None:
    words = [*words, "--bits", "4", "--share", "a"]
    went_well([worker.run([*words, *dealt(8, 1), "--output_dir", str(tmp_path / "one")])])
    went_well(together(worker, [*words, *dealt(4, 1), "--output_dir", str(tmp_path / "two")]))
    # A 4-bit base on a CPU computes in half precision.
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-3


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_a_classifier(worker: Worker, tmp_path: Path, task: str) -> None:
    """Classes and scores, with a last update that is smaller than the others."""
    from small_encoders import write_encoder, write_glue

    environment = {"SHARELORA_DATA": str(write_glue(tmp_path / "data", train=61))}
    encoder = write_encoder(tmp_path / "calm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    words = (
        f"--model_name_or_path {encoder} --task_name {task} --share ab --use_cpu --num_train_epochs 2 --held_out 8"
        " --do_train --do_eval --per_device_eval_batch_size 32 --learning_rate 1e-3 --max_seq_length 32 --seed 1"
        " --lora_dropout 0 --cls_dropout 0"
    ).split()
    one, two = tmp_path / "one", tmp_path / "two"
    end = together(worker, [*words, *dealt(16, 1), "--output_dir", str(one)], GLUE, environment, count=1)
    went_well(end)
    went_well(together(worker, [*words, *dealt(4, 2), "--output_dir", str(two)], GLUE, environment))
    first, second = weights(one), weights(two)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4
    assert measured(one)["train_loss"] == pytest.approx(measured(two)["train_loss"], rel=1e-4)


class TestFsdp2:
    """FSDP2 as accelerate applies it on GPUs, here on CPUs (`shard_on_cpus` in tests/faults/commands_at_fault.py)."""

    @pytest.mark.parametrize("share", ["a", "ab"])
    def test_it_trains_what_one_process_does(
        self, worker: Worker, words: list[str], tmp_path: Path, share: str
    ) -> None:
        """That the model is cut at all, the job itself sees to."""
        words = [*words, "--share", share, "--gradient_checkpointing", "true"]
        one, two = tmp_path / "one", tmp_path / "two"
        went_well([worker.run([*words, *dealt(8, 1), "--output_dir", str(one)])])
        ended = together(worker, [*words, *dealt(2, 2), "--output_dir", str(two)], environment=FSDP2)
        went_well(ended)
        alike(one, two)
        assert files(one) == files(two)

    @pytest.mark.parametrize("sharded_first", [True, False])
    def test_runs_go_on_with_and_without_it(
        self, worker: Worker, words: list[str], alone: Path, tmp_path: Path, sharded_first: bool
    ) -> None:
        """Its checkpoints are those of one process."""
        out = ["--output_dir", str(tmp_path / "out")]
        for sharded, faults in (
            (sharded_first, {"signals": ["on_step_begin", 6, [signal.SIGTERM]]}),
            (not sharded_first, {}),
        ):
            count = 2 if sharded else 1
            went_well(
                together(
                    worker,
                    [*words, *dealt(8 // count, 1), *out],
                    environment=FSDP2 if sharded else None,
                    count=count,
                    **faults,
                )
            )
        alike(alone, tmp_path / "out")


def test_a_signal_to_a_launcher_and_all_its_processes_saves_once(words: list[str], tmp_path: Path) -> None:
    """As schedulers send it; the launcher passes it on to processes that have it already."""
    out = tmp_path / "out"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [
        *launcher,
        str(ROOT / "qlora_share" / "qlora_share.py"),
        *words,
        *dealt(4, 1),
        "--num_train_epochs",
        "500",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--output_dir", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as run:
        assert run.stdout is not None
        said = []
        for line in run.stdout:
            said.append(line)
            if line.startswith("step 8/"):
                for process in (psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)):
                    process.send_signal(signal.SIGTERM)
    assert "has everything; start the same command again to continue" in "".join(said), "".join(said[-30:])
    assert last_step(out) >= 8
    nothing_damaged(out)
