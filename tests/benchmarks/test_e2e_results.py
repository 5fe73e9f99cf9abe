"""The E2E comparison: which runs there are, how rates are chosen, how scores become tables, and going on."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.command import chosen_names
from benchmarks.harness.experiment import MAIN, SEARCH, Run
from benchmarks.scores import e2e, e2e_results
from benchmarks.scores.e2e import BASE, TITLES, E2EExperiment, quick
from sharelora import UserError
from sharelora.evaluation.beam.arguments import parse as parse_decoding
from sharelora.reporting.document import NOTES
from sharelora.training.nlg.job import parse as parse_training

EXPERIMENT = E2EExperiment("gpt2", updates=800, search_updates=200, shares=("none", "a"), rates=(1e-3, 3e-3))


def test_every_way_of_sharing_gets_the_same_search_and_the_same_seeds() -> None:
    whole = E2EExperiment("gpt2")
    search, main = whole.search(), whole.main(dict.fromkeys(TITLES, 1e-3))
    assert len(search) == len(set(search)) == 4 * len(whole.rates)
    assert len(main) == len(set(main)) == 1 + 4 * 3 and main[0].method == BASE
    for runs in (search, main):
        of = {share: {(run.seed, run.rate) for run in runs if run.method == share} for share in TITLES}
        assert all(found == of["none"] for found in of.values())
    assert not {run.seed for run in main} & {run.seed for run in search}


@pytest.mark.parametrize("share", TITLES)
@pytest.mark.parametrize("phase", [SEARCH, MAIN])
def test_the_jobs_take_every_flag_without_a_notice(share: str, phase: str, tmp_path: Path) -> None:
    run = Run(phase, share, 2, 3e-3)
    found = parse_training(EXPERIMENT.training(run, tmp_path))
    assert found.notices == () and found.values["share"] == share
    assert (found.train["learning_rate"], found.train["seed"]) == (3e-3, 2)
    assert found.train["max_steps"] == (200 if phase == SEARCH else 800)
    decoding = parse_decoding(EXPERIMENT.decoding(run, tmp_path))
    assert not decoding.notices and (decoding.beam, decoding.eval_len, decoding.limit) == (10, 64, None)
    assert decoding.adapter == str(tmp_path)


def test_only_what_is_shared_differs(tmp_path: Path) -> None:
    lora, other = (EXPERIMENT.training(Run(MAIN, share, 0, 1e-3), tmp_path) for share in ("none", "ab"))
    assert [(a, b) for a, b in zip(lora, other, strict=True) if a != b] == [("none", "ab")]


def ends(scores: Mapping[tuple[str, int, float], float], phase: str = MAIN) -> Any:
    found: dict[str, Any] = {}
    for (share, seed, rate), score in scores.items():
        metrics = {name: score for name in EXPERIMENT.metrics} if phase == MAIN else {}
        end = e2e.Outcome(metrics, 2 - score, trainable=1000, bytes=4040, training=60.0, decoding=30.0, ended=0.9)
        found.setdefault(share, {})[Run(phase, share, seed, rate)] = end
    return found


def test_the_lowest_loss_decides_and_of_equal_ones_the_smaller_rate() -> None:
    searched = ends({("none", 0, 1e-3): 0.5, ("none", 0, 3e-3): 0.5, ("a", 0, 1e-3): 0.5, ("a", 0, 3e-3): 0.6}, SEARCH)
    assert EXPERIMENT.best_rates(searched) == {"none": 1e-3, "a": 3e-3}
    assert "**1.5000**" in e2e_results.search_table(EXPERIMENT, searched)
    diverged = ends({("a", 0, 1e-3): float("nan"), ("a", 0, 3e-3): -90.0}, SEARCH)
    assert EXPERIMENT.best_rates(diverged) == {"a": 3e-3}


COMPLETE = {
    (share, seed, 1e-3): base + 0.1 * seed for share, base in {"none": 0.3, "a": 0.4}.items() for seed in (0, 1, 2)
}


def test_a_row_has_mean_and_deviation_over_seeds() -> None:
    base, lora, share_a = e2e_results.score_table(EXPERIMENT, ends(COMPLETE)).splitlines()[2:]
    assert "base, not tuned" in base and "ShareA" in share_a
    assert [cell.strip() for cell in lora.split("|")[1:-1]] == [
        *("LoRA", "1,000", "4.04 kB", "1.6000 ± 0.1000"),
        *("0.4000 ± 0.1000", "0.400 ± 0.100", "0.4000 ± 0.1000", "0.4000 ± 0.1000", "0.400 ± 0.100"),
        *("90 %", "60", "30", "3"),
    ]


def test_the_document_says_how_it_was_made() -> None:
    text = e2e_results.compose(EXPERIMENT, ends({("none", 0, 1e-3): 0.5, ("a", 0, 3e-3): 0.6}, SEARCH), ends(COMPLETE))
    for words in (
        "800 updates",
        "--lora_r 16 --lora_alpha 64",
        "--beam 10 --length_penalty 0.8",
        "(e2e.svg)",
        "`gpt2`",
    ):
        assert words in text


def test_the_plot_is_drawn_twice_and_is_the_same_each_time(tmp_path: Path) -> None:
    two_panels = replace(EXPERIMENT, without=("nist", "meteor", "rouge_l"))
    for name in ("one", "two"):
        made = e2e_results.plot(two_panels, ends(COMPLETE), tmp_path / name)
        assert [path.name for path in made] == [f"{name}.svg", f"{name}.png"]
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that take no time: they leave their files and are remembered here."""
    done: list[str] = []

    def train(experiment: E2EExperiment, run: Run, folder: Path) -> None:
        metrics = {"eval_loss": 2 - 10 * run.rate, "train_runtime": 1.0}
        files = {"adapter": {"path": "x", "bytes": 500, "sha256": "0"}}
        result = {"schema": 1, "kind": "train", "metrics": metrics, "plan": {"trainable": 100}, "files": files}
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "completed").write_text("{}")
        done.append(f"train {run.name}")

    def decode_and_score(experiment: E2EExperiment, run: Run, folder: Path) -> None:
        (folder / "decoded").mkdir(exist_ok=True)
        metrics = {"seconds": 1.0, "ended": 1.0}
        (folder / "decoded" / "result.json").write_text(json.dumps({"schema": 1, "kind": "beam", "metrics": metrics}))
        done.append(f"decode {run.name}")
        (folder / "scores.json").write_text(json.dumps({name: 0.5 for name in experiment.metrics}))

    monkeypatch.setattr(e2e, "train", train)
    monkeypatch.setattr(e2e, "decode_and_score", decode_and_score)
    return done


def test_stages_that_have_ended_are_not_repeated(pretend: list[str], tmp_path: Path) -> None:
    _, found = EXPERIMENT.search_and_train(tmp_path, 0)
    assert len([line for line in pretend if line.startswith("train search")]) == 4
    assert len([line for line in pretend if line.startswith("train main")]) == 6
    assert len([line for line in pretend if line.startswith("decode main")]) == 7
    # The higher rate has the lower loss.
    assert {run.rate for runs in found.values() for run in runs} == {0.0, 3e-3}
    pretend.clear()
    EXPERIMENT.search_and_train(tmp_path, 0)
    assert pretend == []
    name = Run(MAIN, "a", 1, 3e-3).name
    (tmp_path / name / "scores.json").unlink()
    EXPERIMENT.search_and_train(tmp_path, 0)
    assert pretend == [f"decode {name}"]


def test_runs_of_two_comparisons_are_not_mixed_but_seeds_can_be_added(pretend: list[str], tmp_path: Path) -> None:
    EXPERIMENT.remember(tmp_path)
    replace(EXPERIMENT, seeds=(0, 1, 2, 3)).remember(tmp_path)
    with pytest.raises(UserError, match="holds runs with updates 800, these have 9"):
        replace(EXPERIMENT, updates=9).remember(tmp_path)


def test_a_failing_run_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise UserError("found no data")

    monkeypatch.setattr(e2e, "train", fail)
    with pytest.raises(UserError, match=r"run search/none_seed1000_lr0\.001 failed: found no data; see .*log\.txt"):
        EXPERIMENT.run_all(EXPERIMENT.search(), tmp_path, 0)
    assert "found no data" in (tmp_path / "search/none_seed1000_lr0.001/log.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 0", "found --seeds 0"),
        ("--updates 0", "found --seeds 3 and --updates 0"),
        ("--shares c", "found the unknown sharing 'c'; need some of none, a, b, ab"),
        ("", "found neither --model nor --corpus"),
    ],
)
def test_a_bad_command_line(words: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sharelora.metrics import java

    monkeypatch.setattr(java, "jar", lambda name: Path(name))
    with pytest.raises(UserError, match=message):
        e2e_results.experiment_from(e2e_results.arguments(words.split()))


def test_java_is_missed_before_hours_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from sharelora.metrics import java

    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="METEOR needs Java"):
        e2e_results.experiment_from(e2e_results.arguments(["--model", "x"]))


def test_a_quick_comparison_needs_no_java_and_all_names_are_known() -> None:
    small = quick(EXPERIMENT)
    assert small.model is None and "METEOR" not in small.metrics and small.updates < 10
    assert chosen_names(None, TITLES, "sharing") == ("none", "a", "b", "ab")


@pytest.mark.slow
def test_the_quick_comparison_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"x --quick --shares none,ab --seeds 2 --jobs 0 --output {tmp_path}"
    monkeypatch.setattr(sys, "argv", words.split())
    e2e_results.main()
    text = (tmp_path / "quick" / "e2e.md").read_text()
    assert "ShareAB" in text and NOTES in text and (tmp_path / "quick" / "e2e.svg").is_file()
