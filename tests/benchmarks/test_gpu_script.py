"""The GPU run, small on a CPU: its checks, its time limit, what it says about memory, and what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as gpu_command
from benchmarks.gpu import checks as gpu_checks
from benchmarks.gpu import device as gpu_device
from benchmarks.gpu import memory as gpu_memory
from benchmarks.gpu import run as gpu_run
from benchmarks.gpu import settings as gpu_settings
from benchmarks.gpu import speed as gpu_speed
from benchmarks.gpu.settings import Context, Deadline, Load
from benchmarks.speed.bases import build_base, known_config
from benchmarks.speed.variants import Adapter
from sharelora import UserError

CPU = torch.device("cpu")


@pytest.fixture
def context() -> Context:
    scale = replace(gpu_settings.tiny_scale(), variants=("peft", "a"), steps=1, warmup=0)
    return Context(CPU, scale, (), without_nf4=None)


@pytest.mark.slow
def test_the_script_runs_on_a_cpu_and_writes_everything_twice(tmp_path: Path, root: Path) -> None:
    here, out = tmp_path / "here", tmp_path / "out"
    environment = {**os.environ, "OUT": str(out), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(root / "benchmarks" / "gpu.sh"), "--tiny", "--output", str(here)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,), (copy,) = here.glob("gpu-*.json"), out.glob("gpu-*.json")
    assert file.read_text() == copy.read_text()
    result = json.loads(file.read_text())
    sections = {section["name"]: section for section in result["sections"]}
    assert list(sections) == ["checks", "bf16", "loss", "memory70b", "nf4", "dropout"]
    _check_numbers(sections)
    text = file.with_suffix(".md").read_text()
    assert text in done.stdout and "Tiny stand-ins" in text
    assert "| a       | computed, 8 layers |" in text and "Skipped" not in text


def _check_numbers(sections: dict[str, Any]) -> None:
    checks = sections["checks"]["rows"]
    assert len(checks) == 9 and all(row["ok"] for row in checks)
    for name in ("bf16", "nf4"):
        rows = sections[name]["rows"]
        assert all(row["tokens_per_second"] > 0 and row["to_floor"] > 0 for row in rows)
        variants = {(row["variant"], row["target"], row["checkpointing"]) for row in rows}
        assert {("floor", "-", True), ("peft", "qv", False), ("ab", "all", True), ("floor", "again", False)} <= variants
    (losses,) = sections["loss"]["rows"]
    assert losses["ways"].keys() >= {"peft", "logits", "none", "a"}
    assert sections["nf4"]["base_bytes"] < sections["bf16"]["base_bytes"]
    for row in sections["memory70b"]["rows"]:
        count = row["measured"]["trainable"]
        assert row["measured"]["adapter"] == row["measured"]["gradients"] == 4 * count
        # AdamW counts its steps in one number per matrix beside the two moments.
        assert 0 <= row["measured"]["optimizer"] - 8 * count <= 4 * 28


def test_the_whole_model_is_computed_from_the_plan() -> None:
    config = known_config("llama3-70b")
    hidden, kv, mlp, r = 8192, 1024, 28672, 64
    ins, outs = 6 * hidden + mlp, 2 * hidden + 2 * kv + 2 * mlp + hidden
    lora = gpu_memory._computed(config, "peft", r)
    assert lora["trainable"] == 80 * r * (ins + outs) == 828_375_040
    assert lora["optimizer"] == 2 * lora["gradients"] == 2 * lora["adapter"] == 8 * lora["trainable"]
    assert gpu_memory._computed(config, "a", r)["trainable"] == r * (ins + 80 * outs)
    assert gpu_memory._computed(config, "ab", r)["trainable"] == r * (ins + outs)


def test_as_many_layers_are_built_as_fit() -> None:
    config = known_config("llama3-70b")
    assert gpu_memory.layers_that_fit(config, int(140e9)) == 80
    assert 20 < gpu_memory.layers_that_fit(config, int(60e9)) < 60
    assert gpu_memory.layers_that_fit(config, 0) == 2


def test_the_full_size_is_the_published_one() -> None:
    scale = gpu_settings.full_scale()
    base = build_base(scale.model, torch.device("meta"), scale.dtype)
    assert sum(p.numel() for p in base.parameters()) == 8_030_261_248
    assert (scale.r, scale.tokens, scale.model.vocab_size) == (64, 2048, 128256)
    assert {load.batch for load in scale.loads} == {1, 2, 4} and {load.checkpointing for load in scale.loads} == {0, 1}


def test_what_does_not_fit_into_the_time_is_skipped_and_named(context: Context) -> None:
    found = gpu_speed.speed(context, Deadline.after(0), nf4=False)
    assert len(found["skipped"]) == len(found["rows"]) > 0
    assert "peft/qv/batch 1, checkpointing" in found["skipped"]
    assert "skipped: no time left" in gpu_speed.speed_table(found)
    assert gpu_checks.checks(context, Deadline.after(0))["skipped"]
    assert gpu_memory.memory(context, Deadline.after(0), nf4=False)["skipped"] == ["peft", "none", "a", "ab"]


@pytest.mark.slow
def test_the_most_important_loads_come_first_within_the_time(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([5.0, 5.0, 0.0])
    monkeypatch.setattr(Deadline, "left", property(lambda self: next(moments)))
    job = ("a", "qv", Adapter(context.scale.r, 0.0, gpu_settings.QV))
    base = build_base(context.scale.model, CPU, torch.bfloat16)
    first, second = gpu_speed._variant(context, Deadline(0), base, job, context.scale.loads)
    assert "step" in first and not first["checkpointing"]
    assert second["skipped"] == "no time left" and second["checkpointing"]


@pytest.mark.slow
def test_a_load_that_fails_is_a_result_and_the_others_go_on(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = gpu_speed._measure

    def fails_with_checkpointing(context: Context, model: Any, name: str, load: Load) -> dict[str, Any]:
        if name == "peft" and load.checkpointing:
            raise torch.OutOfMemoryError("tried to allocate 2 TiB")
        return measure(context, model, name, load)

    monkeypatch.setattr(gpu_speed, "_measure", fails_with_checkpointing)
    found = gpu_speed.speed(context, Deadline.after(100), nf4=False, targets=("qv",))
    failed = [row for row in found["rows"] if "failed" in row]
    assert [row["name"] for row in failed] == ["peft/qv/batch 1, checkpointing"]
    assert failed[0]["failed"] == "out of memory" and "| out of memory" in gpu_speed.speed_table(found)
    assert gpu_device.failure(RuntimeError("no kernel\nmore")) == "RuntimeError: no kernel"
    ours = [row for row in found["rows"] if row["variant"] == "a"]
    assert [row["speedup"] is None for row in ours] == [False, True]


def test_autocast_is_compared_with_autocast() -> None:
    def made(variant: str, seconds: float) -> dict[str, Any]:
        load = {"target": "all", "batch": 1, "checkpointing": False}
        return {"variant": variant, **load, "step": {"median": seconds}}

    rows = [made("floor", 1.0) | {"target": "-"}, made("peft", 3.0), made("peft_autocast", 2.0)]
    rows += [made("none", 1.5), made("none_autocast", 1.25)]
    gpu_speed._add_ratios(rows)
    assert [row["speedup"] for row in rows] == [None, 1, 1, 2, 1.6]
    assert rows[-1]["to_floor"] == 1.25


@pytest.mark.slow
def test_a_wrong_gradient_fails_the_check(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu_checks.Bench.train

    def scaled(self: gpu_checks.Bench, model: Any, name: str) -> Any:
        loss, gradients = right(self, model, name)
        return loss, {key: value * (1.1 if name == "none" else 1.0) for key, value in gradients.items()}

    monkeypatch.setattr(gpu_checks.Bench, "train", scaled)
    found = gpu_checks.checks(replace(context, without_nf4="no bitsandbytes"), Deadline.after(100))
    failed = {row["check"] for row in found["rows"] if row.get("ok") is False}
    assert failed == {"ours with nothing shared equals PEFT", "the gradient of a shared A is the sum over layers"}
    assert len(found["skipped"]) == 2
    assert "FAILED" in gpu_checks.checks_table(found) and "no bitsandbytes" in gpu_checks.checks_table(found)


def test_a_section_that_crashes_is_reported_and_fails_the_run(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*arguments: Any) -> Any:
        raise RuntimeError("device lost")

    monkeypatch.setattr(gpu_checks, "checks", crash)
    flags = ["gpu.py", "--tiny", "--sections", "checks", "--output", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", flags)
    monkeypatch.delenv("OUT", raising=False)
    assert gpu_command.main() == 1
    (file,) = tmp_path.glob("gpu-*.json")
    assert json.loads(file.read_text())["sections"][0]["failed"] == ["section checks"]
    assert "Not run: crashed: RuntimeError('device lost')" in capsys.readouterr().out


def test_four_bit_sections_are_left_out_where_there_are_no_four_bit_layers(context: Context) -> None:
    (nf4,) = gpu_run.chosen_sections("nf4")
    found = gpu_run.run_section(replace(context, without_nf4="no 4-bit layers: x"), nf4, Deadline.after(100))
    assert found["not_run"] == "no 4-bit layers: x"


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="found the unknown section 'int8'; need some of checks, bf16"):
        gpu_run.chosen_sections("int8")
    with pytest.raises(UserError, match=r"no GPU that torch can use; .* pass --tiny"):
        gpu_run.make_context(gpu_command.arguments(["--device", "cpu"]))
    monkeypatch.setattr(gpu_command.metadata, "version", lambda name: "0.20.1")
    with pytest.raises(UserError, match=r"found peft 0\.20\.1; need 0.21 or newer; bring its wheel: WHEELS=DIR"):
        gpu_command.check_packages()


def test_bash_can_parse_the_script(root: Path) -> None:
    done = subprocess.run(["bash", "-n", str(root / "benchmarks" / "gpu.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
