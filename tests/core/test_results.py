"""Results are read back as written, upstream's files beside them, and compared in one table."""

from __future__ import annotations

import json
import re
from enum import IntEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.plan.site import Site
from sharelora.reporting.compare import compare
from sharelora.reporting.document import NOTES, opening, provenance, write_document
from sharelora.reporting.environment import git_commit, machine_facts, peak_memory, versions
from sharelora.reporting.results import (
    describe_file,
    describe_plan,
    describe_rule,
    read_result,
    read_results,
    write_result,
)
from sharelora.support.errors import UserError
from sharelora.support.tensor_header import tensor_shapes


class Level(IntEnum):
    HIGH = 3


def plan_facts(share: str = "a") -> dict[str, Any]:
    sites = [Site(f"layers.{layer}.q", "q", layer, 8, 8) for layer in range(2)]
    rule = SharingRule(share)
    return describe_plan(SharingPlan.build(sites, rule, 2), rule)


def adapter(folder: Path, value: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    save_file({"a": torch.full((2, 8), value), "b": torch.zeros(8, 2)}, folder / "adapter_model.safetensors")
    return folder


def train(folder: Path, seed: int = 0, loss: float = 1.0, share: str = "a") -> Path:
    saved = adapter(folder / "adapter", loss)
    config = {"seed": seed, "lr": 1e-3, "output_dir": folder}
    metrics = {"eval_loss": loss, "eval_runtime": 3.0, "peak_memory_bytes": 2_000_000_000}
    write_result(folder, "train", config, metrics, plan_facts(share), {"adapter": saved}, 12.5, model="models/tiny")
    return folder


def mmlu(folder: Path, adapter_of: Path, accuracy: float) -> Path:
    metrics = {"mmlu_test_accuracy": accuracy, "by_subject": {"law": 0.5}}
    saved = {"adapter": adapter_of / "adapter"}
    write_result(folder, "mmlu", {"seed": 0}, metrics, plan_facts(), saved, 3.0, model="models/tiny")
    return folder


def cells(table: str) -> list[dict[str, str]]:
    header, *rows = [re.split(r"  +", line.strip()) for line in table.splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_a_result_is_read_back_as_written(tmp_path: Path) -> None:
    config = {"seed": 7, "dtype": torch.bfloat16, "path": tmp_path, "level": Level.HIGH, "betas": (0.9, 0.99)}
    metrics = {"loss": torch.tensor(0.5), "worse": float("nan"), "nested": {"law": 1.0}}
    path = write_result(
        tmp_path, "train", config, metrics, plan_facts(), {"adapter": adapter(tmp_path / "x")}, 60.0, model="tiny"
    )
    result = read_result(path)
    assert path == tmp_path / "result.json"
    assert result.metrics == {"loss": 0.5, "worse": "nan", "nested": {"law": 1.0}}
    assert result.config["dtype"] == "torch.bfloat16" and result.config["betas"] == [0.9, 0.99]
    assert (result.seed, result.kind, result.model, result.seconds) == (7, "train", "tiny", 60.0)
    assert result.plan == {
        "share": "a",
        "hash": plan_facts()["hash"],
        "trainable": 48,
        "unshared": 64,
        "sites": 2,
        "matrices": 3,
        "ranks": [2],
    }
    assert result.adapter["elements"] == 32
    # A CUDA build calls itself 2.13.0+cu130, and its package 2.13.0.
    assert result.versions["torch"] == version("torch") and "python" in result.versions
    assert result.machine["cores"] >= 1 and result.machine["ram"] > 2**20
    assert result.started < result.finished
    assert result.command


def test_the_file_is_standard_json(tmp_path: Path) -> None:
    path = write_result(tmp_path, "train", {}, {"loss": float("inf")})
    assert "Infinity" not in path.read_text()
    assert json.loads(path.read_text())["schema"] == 1


def test_a_result_of_another_kind_is_never_overwritten(tmp_path: Path) -> None:
    assert write_result(tmp_path, "train", {}, {"a": 1}).name == "result.json"
    assert write_result(tmp_path, "mmlu", {}, {"b": 2}).name == "result_mmlu.json"
    assert write_result(tmp_path, "train", {}, {"a": 3}).name == "result.json"
    assert [(result.kind, result.metrics) for result in read_results(tmp_path)] == [
        ("train", {"a": 3}),
        ("mmlu", {"b": 2}),
    ]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (SharingRule(), "none"),
        (SharingRule("a", ("q", "k")), "a q,k"),
        (SharingRule("a", across="modules"), "a over modules"),
        (SharingRule("ab", groups="odd_even"), "ab odd_even"),
        (SharingRule("ab", groups=((0, 1), (2, 3))), "ab 2 groups"),
        (None, "plan"),
    ],
)
def test_a_rule_in_words(rule: SharingRule | None, words: str) -> None:
    assert describe_rule(rule) == words


def test_shapes_come_from_the_header_alone(tmp_path: Path) -> None:
    file = adapter(tmp_path / "a") / "adapter_model.safetensors"
    assert tensor_shapes(file) == {"a": (2, 8), "b": (8, 2)}


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:4], lambda b: b"\x80\x04" + b])
def test_a_damaged_adapter_is_not_described(tmp_path: Path, damage: Any) -> None:
    file = adapter(tmp_path / "a") / "adapter_model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match="truncated, altered"):
        describe_file(file)


def test_a_training_and_the_evaluation_of_its_adapter_stand_in_one_row(tmp_path: Path) -> None:
    for name, loss in (("lora", 1.0), ("share", 2.0)):
        train(tmp_path / name, loss=loss)
        mmlu(tmp_path / name / "mmlu", tmp_path / name, accuracy=loss / 4)
    rows = cells(compare([tmp_path / "share", tmp_path / "lora"]))
    assert [row["run"] for row in rows] == ["share", "lora"]
    assert rows[0] == {
        "run": "share",
        "kind": "train+mmlu",
        "model": "tiny",
        "share": "a",
        "trainable": "48",
        "adapter bytes": f"{describe_file(tmp_path / 'share/adapter')['bytes']} B",
        "seconds": "12.5",
        "peak memory": "2.00 GB",
        "eval_loss": "2",
        "mmlu_test_accuracy": "0.5",
    }


def test_an_evaluation_of_another_adapter_stands_alone(tmp_path: Path) -> None:
    train(tmp_path / "one", loss=1.0)
    train(tmp_path / "two", loss=2.0)
    mmlu(tmp_path / "evaluated", tmp_path / "two", 0.25)
    rows = cells(compare([tmp_path / "one", tmp_path / "evaluated"]))
    assert [(row["run"], row["kind"]) for row in rows] == [("one", "train"), ("evaluated", "mmlu")]


def test_two_evaluations_that_disagree_are_both_shown(tmp_path: Path) -> None:
    train(tmp_path / "one")
    mmlu(tmp_path / "first", tmp_path / "one", 0.25)
    mmlu(tmp_path / "second", tmp_path / "one", 0.5)
    rows = cells(compare([tmp_path]))
    assert [row["mmlu_test_accuracy"] for row in rows] == ["0.25", "0.5"]


def test_runs_that_differ_in_the_seed_are_averaged(tmp_path: Path) -> None:
    for seed, loss in enumerate([1.0, 2.0, 3.0]):
        train(tmp_path / f"share_seed{seed}", seed, loss)
    train(tmp_path / "lora_seed0", 0, 5.0, share="none")
    rows = {row["run"]: row for row in cells(compare([tmp_path], by_seed=True))}
    assert rows["share"]["seeds"] == "3" and rows["share"]["eval_loss"] == "2 ± 1"
    assert rows["lora_seed0"]["seeds"] == "1" and rows["lora_seed0"]["eval_loss"] == "5"


def test_runs_with_other_settings_are_not_averaged(tmp_path: Path) -> None:
    for rate in (1e-3, 1e-4):
        write_result(tmp_path / str(rate), "train", {"seed": 0, "lr": rate}, {"eval_loss": rate})
    assert len(cells(compare([tmp_path], by_seed=True))) == 2


def upstream(folder: Path, **files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_upstream_files_are_understood(tmp_path: Path) -> None:
    metrics = {"eval_accuracy": 0.875, "eval_loss": 0.4, "eval_mem_cpu_alloc_delta": 7, "epoch": 30.0}
    upstream(tmp_path / "mrpc", all_results={**metrics, "train_runtime": 99.5}, eval_results_mrpc=metrics)
    subjects = {"mmlu_test_accuracy": 0.41, "mmlu_test_accuracy_law": 0.3, "eval_loss": 1.5}
    qlora = upstream(tmp_path / "guanaco", metrics={"run_name": "guanaco-7b", **subjects})
    (qlora / "checkpoint-9" / "adapter_model").mkdir(parents=True)
    (qlora / "checkpoint-9" / "adapter_model" / "adapter_model.bin").write_bytes(b"x" * 1234)
    train(tmp_path / "ours", loss=1.0)
    (tmp_path / "ours" / "all_results.json").write_text('{"eval_loss": 77.0}')
    rows = {row["run"]: row for row in cells(compare([tmp_path]))}
    assert set(rows) == {"mrpc", "guanaco-7b", "ours"}
    assert (rows["mrpc"]["kind"], rows["mrpc"]["eval_accuracy"], rows["mrpc"]["seconds"]) == ("lora", "0.875", "99.5")
    assert rows["guanaco-7b"]["mmlu_test_accuracy"] == "0.41" and rows["guanaco-7b"]["adapter bytes"] == "1.23 kB"
    assert rows["ours"]["eval_loss"] == "1"
    assert not {"mmlu_test_accuracy_law", "eval_mem_cpu_alloc_delta", "epoch"} & set(rows["mrpc"])


def test_upstream_runs_are_not_taken_for_repetitions(tmp_path: Path) -> None:
    for name in ("mrpc", "rte"):
        upstream(tmp_path / name, all_results={"eval_accuracy": 0.8})
    assert len(cells(compare([tmp_path], by_seed=True))) == 2


def test_chosen_metrics_and_markdown(tmp_path: Path) -> None:
    mmlu(tmp_path / "e", train(tmp_path / "t"), 0.25)
    table = compare([tmp_path], metrics=["mmlu_test_accuracy"], markdown=True)
    assert table.splitlines()[0].startswith("| run") and set(table.splitlines()[1]) <= set("|-:")
    assert "eval_loss" not in table
    assert "eval_runtime" not in compare([tmp_path]) and "eval_runtime" in compare([tmp_path], metrics=["eval_runtime"])
    with pytest.raises(UserError, match=r"no result has a metric 'f1'; there are eval_loss, eval_runtime, mmlu_test"):
        compare([tmp_path], metrics=["f1"])


def test_bad_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such path"):
        compare([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="a folder without results"):
        compare([tmp_path / "empty"])
    (tmp_path / "empty" / "metrics.json").write_text('{"loss": 1.0}')
    with pytest.raises(UserError, match="a folder without results"):
        compare([tmp_path / "empty"])
    with pytest.raises(UserError, match="is not a known result"):
        compare([tmp_path / "empty" / "metrics.json"])
    with pytest.raises(UserError, match="nothing to compare"):
        compare([])


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"schema": 9, "kind": "train"}', "schema 9"), ('{"schema": 1}', "has no kind"), ("[", "not valid JSON")],
)
def test_damaged_results_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_results(tmp_path)


def test_sizes_have_three_digits_and_the_next_unit_in_time(tmp_path: Path) -> None:
    write_result(tmp_path, "train", {}, {"peak_memory_bytes": 999_900})
    assert cells(compare([tmp_path]))[0]["peak memory"] == "1.00 MB"


def test_a_document_opens_with_how_it_came_about_and_keeps_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["x.py", "--hub_token", "hf_secretsecret", "--seed", "1"])
    facts = provenance("A comparison")
    title, _, command, machine, packages, commit = opening(facts).splitlines()
    assert title.startswith(f"# A comparison, {facts['date'][:10]} ")
    assert "x.py --hub_token '***' --seed 1`" in command and facts["machine"]["cpu"] in machine
    assert f"torch {version('torch')}" in packages and commit == f"- commit: {facts['git'] or '-'}"
    document = tmp_path / "x.md"
    document.write_text("old\n\n<!-- What follows is written by hand, in earlier words. -->\n\nBoth are close.\n")
    for _ in range(2):
        write_document(document, "new")
        assert document.read_text() == f"new\n\n{NOTES}\n\nBoth are close.\n"


def test_the_environment_is_described() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", git_commit() or "0" * 40)
    assert versions()["torch"] and machine_facts()["cpu"]
    assert peak_memory() > 50 * 2**20
