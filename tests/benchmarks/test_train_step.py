"""The measurement of a training step: what is compared, how times become numbers, what it refuses and writes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness import machine, report
from benchmarks.speed import growth, stacks, steps, timing, train_step, variants
from benchmarks.speed.bases import build_base, random_batch, stack_config, twin
from sharelora import UserError

CPU = torch.device("cpu")
SMALL = steps.StackCell(hidden=64, layers=2, rank=4, tokens=8, dtype="fp32")
FLAGS = ["--hidden", "64", "--layers", "2", "--rank", "4", "--tokens", "8", "--rounds", "2", "--threads", "1"]


def given(*flags: str) -> argparse.Namespace:
    return train_step.arguments([*FLAGS, *flags])


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that nobody else uses."""
    monkeypatch.setattr(machine, "others_now", lambda: 0.0)


# What is compared


def test_all_variants_train_on_the_very_same_frozen_weights() -> None:
    steps = stacks.prepare(SMALL, variants.choose(None, "fp32"), CPU)
    assert set(steps) == {"floor", "peft", "loralib", "none", "a", "b", "ab", "qkv"}
    weights = [{p.data_ptr() for p in step.model.parameters() if not p.requires_grad} for step in steps.values()]
    assert all(found == weights[0] for found in weights[1:])


def test_every_trained_matrix_of_every_variant_gets_a_gradient() -> None:
    for name, step in stacks.prepare(SMALL, variants.choose(None, "fp32"), CPU).items():
        assert step.forward_backward() > 0
        embeddings = step.batch["inputs_embeds"]
        assert embeddings.grad is not None and embeddings.grad.any(), name
        assert bool(step.parameters) == (name != "floor")
        assert all(p.grad is not None and p.grad.any() for p in step.parameters), name
        step.update()
        assert embeddings.grad is None and all(p.grad is None for p in step.parameters), name


def test_the_variants_have_as_many_parameters_as_their_names_say() -> None:
    counts = {
        name: sum(p.numel() for p in step.parameters)
        for name, step in stacks.prepare(SMALL, variants.choose(None, "fp32"), CPU).items()
    }
    mlp = stack_config(64, 2).intermediate_size
    assert mlp == 192
    pair = 4 * (64 + 64) * 4 + 3 * 4 * (64 + mlp)
    assert counts["floor"] == 0
    assert counts["peft"] == counts["loralib"] == counts["none"] == 2 * pair
    assert counts["ab"] == pair
    assert pair < counts["a"] < 2 * pair and counts["a"] + counts["b"] == 3 * pair
    # q, k and v of a layer use one A of the three: two As of rank 4 less per layer.
    assert counts["qkv"] == 2 * pair - 2 * 2 * 4 * 64


def test_adapting_a_twin_leaves_the_base_as_it_is() -> None:
    base = build_base(stack_config(64, 2), CPU, torch.float32)
    names = [name for name, _ in base.named_modules()]
    adapted = variants.attach(twin(base), "a", variants.Adapter(r=2))
    assert variants.trainable(adapted) and not variants.trainable(base)
    assert [name for name, _ in base.named_modules()] == names


def test_variants_that_mean_nothing_in_a_precision_are_left_out() -> None:
    assert "peft_bf16" not in variants.choose(None, "fp32")
    assert "loralib" not in variants.choose("peft,loralib", "nf4")
    assert variants.choose("ab,floor", "bf16") == ["ab", "floor"]


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(UserError, match="no variant 'lora'; need some of floor, peft"):
        variants.choose("floor,lora", "bf16")


# How times become numbers


def test_variants_take_turns_and_each_round_starts_with_another() -> None:
    order: list[str] = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def sample(self) -> timing.Sample:
            order.append(self.name)
            return timing.Sample(len(order), 0.0)

    steps: Any = {name: Fake(name) for name in "xyz"}
    samples = timing.interleave(steps, rounds=3, warmup=1)
    assert "".join(order) == "zxy" + "xyz" + "yzx" + "zxy"
    assert [sample.step for sample in samples["x"]] == [4, 9, 11]


def test_a_ratio_is_formed_within_rounds() -> None:
    slow = [timing.Sample(step, 0) for step in (2.0, 20.0, 200.0)]
    fast = [timing.Sample(step, 0) for step in (1.0, 10.0, 100.0)]
    found = timing.ratio(slow, fast)
    assert (found.median, found.low, found.high, found.count) == (2, 2, 2, 3)


def test_a_spread_is_median_and_quartiles() -> None:
    spread = timing.Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert spread == timing.Spread(median=3, low=2, high=4, least=1, count=5)
    assert timing.Spread.of([7.0]) == timing.Spread(7, 7, 7, 7, 1)


def test_only_the_load_of_others_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(0.0, 10.0, 1.0), (2.0, 13.0, 2.0)])
    monkeypatch.setattr(machine.OtherLoad, "_read", staticmethod(lambda: next(readings)))
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda: 2)
    with machine.OtherLoad() as other_load:
        pass
    # 3 CPU seconds were used in 2 seconds on 2 cores, 1 of them by this process.
    assert other_load.percent == 50


def test_peak_memory_sees_what_a_block_took_and_gave_back() -> None:
    measured_peak = machine.Peak(CPU)
    torch.ones(64 << 20, dtype=torch.uint8)
    assert measured_peak.read() - measured_peak.before >= 32 << 20


def test_peak_memory_of_a_variant_is_more_than_what_was_there_before() -> None:
    found = stacks.measure_here(SMALL, "a", CPU)
    assert 0 < found["before"] <= found["peak"]


@pytest.mark.slow
def test_a_process_of_its_own_measures_memory_and_says_what_went_wrong() -> None:
    found = stacks.measure_apart(SMALL, "none", 1, CPU)
    assert 0 < found["before"] <= found["peak"]
    with pytest.raises(UserError, match="memory of nonsense failed: KeyError: 'nonsense'"):
        stacks.measure_apart(SMALL, "nonsense", 1, CPU)


# Growth


def row(seconds: float, floor: float = 0.5, **numbers: Any) -> dict[str, Any]:
    spread = {"low": seconds, "high": seconds}
    found = {"a": {"step": {"median": seconds, **spread}}, "floor": {"step": {"median": floor, **spread}}}
    return {"cell": steps.StackCell(**numbers).data(), "variants": found}


def test_a_line_is_found_and_a_curve_is_not_called_one() -> None:
    straight = growth.line([2, 4, 8], [1.5, 2.5, 4.5])
    assert straight == pytest.approx({"slope": 0.5, "intercept": 0.5, "r2": 1.0})
    assert growth.line([1, 2, 4, 8], [1, 4, 16, 64])["r2"] < 0.97


def test_growth_is_measured_along_one_axis_at_a_time(tmp_path: Path) -> None:
    rows = [row(0.1 * layers, layers=layers) for layers in (8, 2, 4)]
    rows += [row(0.4 + (rank - 16) / 1000, rank=rank) for rank in (8, 64)]
    rows += [row(9.0, layers=2, rank=8)]
    curves = list(growth.series(rows, [steps.StackCell().data()]))
    found = {(curve["axis"], curve["variant"]): curve for curve in curves}
    assert set(found) == {("layers", "a"), ("layers", "floor"), ("rank", "a")}
    assert found["layers", "a"]["x"] == [2, 4, 8]
    assert found["rank", "a"]["x"] == [8, 16, 64]
    assert found["rank", "a"]["fit"]["slope"] == pytest.approx(0.001)
    assert found["layers", "a"]["adapter"]["intercept"] == pytest.approx(-0.5)
    growth.plot(curves, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_varies_one_number_at_a_time() -> None:
    base = steps.StackCell()
    swept = steps.swept_cells([base])
    assert base not in swept and len(swept) == len(set(swept)) == 2 + 3 + 3
    differences = [[key for key, value in cell.data().items() if value != base.data()[key]] for cell in swept]
    assert sorted(names[0] for names in differences) == ["layers"] * 2 + ["rank"] * 3 + ["tokens"] * 3
    assert {len(names) for names in differences} == {1}


# Goals


def measured(to_floor: float, speedup: float, **numbers: Any) -> dict[str, Any]:
    ratios = {"to_floor": {"median": to_floor}, "speedup": {"median": speedup}}
    return {"cell": steps.StackCell(**numbers).data(), "variants": {name: ratios for name in ("floor", "peft", "none")}}


@pytest.mark.parametrize(
    ("dropout", "to_floor", "speedup", "met"),
    [
        (0.0, 1.12, 1.4, True),
        (0.0, 1.13, 1.5, False),
        (0.0, 1.10, 1.39, False),
        (0.1, 1.25, 1.6, True),
        (0.1, 1.26, 1.7, False),
    ],
)
def test_goals_are_checked(dropout: float, to_floor: float, speedup: float, met: bool) -> None:
    (goal,) = train_step.check_goals([measured(to_floor, speedup, dropout=dropout)])
    assert goal["met"] is met and goal["variant"] == "none"


@pytest.mark.parametrize("numbers", [{"hidden": 512}, {"layers": 2}, {"rank": 8}, {"dtype": "fp32"}, {"dropout": 0.05}])
def test_goals_are_about_one_configuration(numbers: dict[str, Any]) -> None:
    assert train_step.check_goals([measured(1.0, 2.0, **numbers)]) == []


# The program


def test_the_default_is_the_configuration_of_the_goal() -> None:
    default = train_step.arguments([])
    assert (default.hidden, default.layers, default.rank, default.tokens) == (1024, 4, 16, 1024)
    assert (default.dtype, default.dropout, default.memory) == ("bf16", "0,0.1", True)
    quick = train_step.arguments(["--quick", "--layers", "3"])
    assert (quick.hidden, quick.layers, quick.memory) == (256, 3, False)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_a_measurement_has_all_its_fields() -> None:
    result = train_step.measure(given("--dtype", "fp32,bf16", "--dropout", "0.1", "--no-memory"))
    assert [row["cell"]["dtype"] for row in result["cells"]] == ["fp32", "bf16"]
    assert {"peft_bf16", "peft_autocast", "none_autocast"} <= set(result["cells"][1]["variants"])
    for name, found in result["cells"][1]["variants"].items():
        assert found["step"]["count"] == 2 and 0 < found["step"]["least"] <= found["step"]["median"], name
        assert found["optimizer"]["median"] >= 0 and found["speedup"]["median"] > 0
        assert (found["trainable"] > 0) == (name != "floor")
    assert result["cells"][1]["variants"]["floor"]["to_floor"]["median"] == 1
    assert result["settings"]["threads"] == 1 and result["growth"] == []
    text = train_step.markdown({**result, "goals": []})
    assert "## bf16, dropout 0.1: hidden 64, 2 layers, rank 4, 8 tokens" in text
    assert "not measured here" in text


@pytest.mark.slow
def test_the_program_writes_json_and_a_table(tmp_path: Path, root: Path) -> None:
    flags = [*FLAGS, "--variants", "floor,peft,a", "--dropout", "0", "--no-memory", "--force", "--save", str(tmp_path)]
    program = [sys.executable, str(root / "benchmarks" / "speed" / "train_step.py"), *flags]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("train_step-*.json")
    result = json.loads(file.read_text())
    assert result["kind"] == "train_step" and result["command"].endswith(str(tmp_path))
    assert list(result["cells"][0]["variants"]) == ["floor", "peft", "a"]
    assert file.with_suffix(".md").read_text() in done.stdout


def test_times_of_a_loaded_machine_are_not_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "others_now", lambda: 50.0)
    with pytest.raises(UserError, match="others use 50 % of this machine"):
        machine.check_load(given("--save"))
    assert machine.check_load(given("--save", "--force")) == 50
    assert "WARNING: others use 50 %" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dtype", "fp64"], "--dtype 'fp64' is unknown; need some of fp32, bf16"),
        (["--dropout", "1"], "found --dropout 1; need a probability of at least 0 and below 1"),
        (["--dropout", "x"], "'x', which is not a list of numbers"),
        (["--hidden", "100"], "found hidden 100, .* need a hidden size that 64 divides"),
        (["--rank", "0"], "rank 0"),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_bad_input_is_named(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_step.measure(given(*flags, "--no-memory"))


def test_a_table_lines_up() -> None:
    text = report.table(("name", "x"), [("a", 1), ("long name", 22)])
    assert text.splitlines() == ["| name      | x  |", "|-----------|----|", "| a         | 1  |", "| long name | 22 |"]


def test_a_batch_asks_for_gradients_down_to_the_embeddings() -> None:
    batch = random_batch(stack_config(64, 1, vocab=8), 2, 5, CPU, torch.bfloat16)
    assert batch["inputs_embeds"].shape == (2, 5, 64) and batch["inputs_embeds"].requires_grad
    assert batch["labels"].shape == (2, 5) and batch["labels"].max() < 8


def test_the_report_says_when_the_goals_are_about_another_cpu() -> None:
    goals = train_step.check_goals([measured(1.1, 1.5)])
    without = {"gpu": [], "instructions": ["avx2"]}
    assert "- none, 4 layers, dropout 0: met 1.10x the floor" in train_step._goal_lines(goals, without)
    assert "a CPU with AMX. This one has none" in train_step._goal_lines(goals, without)
    assert "AMX" not in train_step._goal_lines(goals, {"gpu": [], "instructions": ["amx_bf16", "avx2"]})
    assert "AMX" not in train_step._goal_lines([], without)


def test_the_report_says_which_half_of_a_goal_is_missed_and_what_bounds_it() -> None:
    text = train_step._goal_lines(train_step.check_goals([measured(1.1, 1.2)]), {"gpu": [], "instructions": []})
    assert "met 1.10x the floor" in text and "MISSED 1.20x faster than PEFT (at least 1.4; the floor itself is" in text
