"""The comparison of layer groups: which ways there are, which have equal sizes, and going on."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.experiment import MAIN, SEARCH, Run
from benchmarks.scores import groups, groups_results
from benchmarks.scores.groups import MODULES, GroupsExperiment, quick, ways
from sharelora import UserError
from sharelora.layer_groups import FILE, Similarity
from sharelora.layer_groups.similarity import shape_of
from sharelora.models.known import meta_model
from sharelora.reporting.document import NOTES
from sharelora.training.instructions.job import parse

EXPERIMENT = GroupsExperiment("llama", 0.9, (0.5, 0.9), rates=(1e-3, 3e-3), seeds=(0, 1))


def similarity(root: Path) -> Similarity:
    """Similarities of the layers of TinyLlama, falling off with their distance, as a file too."""
    config: Any = meta_model("tinyllama-1.1b").config
    layers = config.num_hidden_layers
    rows = tuple(tuple(1 - 0.04 * abs(i - j) for j in range(layers)) for i in range(layers))
    values = {"cosine": rows, "angular": rows}
    made = Similarity("toy", shape_of(config), "x", "0f", 9, 512, values, dict.fromkeys(values, (0.9,) * layers))
    made.write(root / FILE)
    return made


def test_every_way_is_taken_by_the_job_without_a_notice_and_sizes_are_equal(tmp_path: Path) -> None:
    model, sizes = meta_model("tinyllama-1.1b"), {}
    every = ways(similarity(tmp_path), tmp_path / FILE, 0.9)
    experiment = replace(EXPERIMENT, ways=every)
    for name in every:
        args = parse(experiment.flags(Run(MAIN, name, 1, 3e-3), tmp_path / "run"))
        assert args.notices == () and (args.train["learning_rate"], args.train["seed"]) == (3e-3, 1)
        sizes[name] = args.adapter_settings.plan(model).num_parameters
    assert sizes["optimal"] == sizes["dropped"] == sizes["apart"]
    assert sizes["lora_small"] == pytest.approx(sizes["optimal"], rel=0.15)
    assert sizes["optimal_wide"] == pytest.approx(sizes["lora"], rel=0.08)
    assert sizes["odd_even"] == sizes["lora"] / 2
    assert len(every) == len(set(every)) == 10


def test_dropped_layers_are_those_behind_the_first_of_a_group(tmp_path: Path) -> None:
    names = ways(similarity(tmp_path), tmp_path / FILE, 0.9)["dropped"].flags["lora_modules"].split(",")
    layers = {int(name.split(".")[1]) for name in names}
    # Of 22 layers those stay that open a group of three, which spans 0.08.
    assert len(layers) == 8 and len(names) == 8 * len(MODULES) and 0 in layers


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings that take no time: they leave their files and are remembered here."""
    done: list[str] = []

    def train(experiment: GroupsExperiment, run: Run, folder: Path) -> None:
        loss = 4 + 10 * run.rate + 0.1 * run.seed / 1000 + (0.5 if run.method == "optimal" else 0)
        metrics = {"eval_loss_before": 5.0, "eval_loss": loss, "train_runtime": 7.0}
        files = {"adapter": {"path": "x", "bytes": 4040, "sha256": "0"}}
        result = {"schema": 1, "kind": "train", "metrics": metrics, "plan": {"trainable": 1000}, "files": files}
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "completed").write_text("{}")
        done.append(run.name)

    monkeypatch.setattr(groups, "train", train)
    return done


def test_runs_that_have_ended_are_not_repeated_and_the_document_has_everything(
    pretend: list[str], tmp_path: Path
) -> None:
    similarity(tmp_path)
    done = groups_results.search_and_train(EXPERIMENT, tmp_path, 0, "lora,optimal")
    assert len([name for name in pretend if name.startswith(SEARCH)]) == 4
    assert len([name for name in pretend if name.startswith(MAIN)]) == 4
    assert {run.rate for runs in done.outcomes.values() for run in runs} == {1e-3}
    pretend.clear()
    assert groups_results.search_and_train(EXPERIMENT, tmp_path, 0, "lora,optimal") == done and pretend == []
    text = groups_results.compose(done)
    for words in ("| 0.9 ", "LoRA, r 8", "0.5000 ± 0.0000", "**4.1100**", "(groups.svg)", "threshold 0.9"):
        assert words in text
    for name in ("one", "two"):
        assert [f.name for f in groups_results.plot(done.experiment.ways, done.outcomes, tmp_path / name)] == [
            f"{name}.svg",
            f"{name}.png",
        ]
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_two_comparisons_are_not_mixed_but_seeds_can_be_added(tmp_path: Path) -> None:
    EXPERIMENT.remember(tmp_path)
    replace(EXPERIMENT, seeds=(0, 1, 2)).remember(tmp_path)
    with pytest.raises(UserError, match=r"holds runs with threshold 0\.9, these have 0\.8"):
        replace(EXPERIMENT, threshold=0.8).remember(tmp_path)


def test_a_diverged_rate_is_never_the_best() -> None:
    ends = {
        Run(SEARCH, "a", 0, rate): groups.Outcome(5.0, loss, 1, 1, 1.0)
        for rate, loss in ((1e-3, 4.0), (3e-3, float("nan")), (1e-2, 4.0))
    }
    assert EXPERIMENT.best_rates({"a": ends}) == {"a": 1e-3}


@pytest.mark.parametrize(
    ("words", "message"),
    [("--seeds 0 --model x", "found --seeds 0"), ("", "found no --model"), ("--model x --updates 0", "--updates 0")],
)
def test_a_bad_command_line(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        groups_results.experiment_from(groups_results.arguments(words.split()))


@pytest.mark.slow
def test_the_quick_comparison_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"x --quick --ways lora,greedy,dropped --seeds 2 --jobs 0 --output {tmp_path} --threshold 0.8"
    monkeypatch.setattr(sys, "argv", words.split())
    groups_results.main()
    text = (tmp_path / "quick" / "groups.md").read_text()
    assert "Algorithm 1" in text and NOTES in text and (tmp_path / "quick" / "groups.svg").is_file()
    assert quick(EXPERIMENT).model is None
