"""A grid is checked before it runs, runs the cheapest first, resumes where it stopped, and becomes tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sharelora.cli.commands import main
from sharelora.reporting.results import write_result
from sharelora.support.errors import UserError
from sharelora.training.ablation.command import ablate
from sharelora.training.ablation.grid import read_grid
from sharelora.training.ablation.runs import ENDED, execute, in_order, is_done, plan_runs
from sharelora.training.arguments import setting_words
from sharelora.training.instructions.job import build_parser, parse
from sharelora.training.instructions.job import run as train


class Pretend:
    """Stands in for training: writes a result whose score is the rank plus a tenth of the seed."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.commands: list[list[str]] = []
        self.stop_after = stop_after

    def __call__(self, words: Sequence[str], log: Path) -> None:
        if len(self.commands) == self.stop_after:
            raise UserError("out of luck")
        self.commands.append(list(words))
        if words[0] == "-m":
            args = parse(words[2:])
            facts = {"share": args.values["share"], "trainable": 100 * args.values["lora_r"], "hash": "x"}
            score = args.values["lora_r"] + args.train["seed"] / 10
            write_result(args.output_dir, "train", args.to_json(), {"train_score": score}, facts)


def cells(text: str) -> dict[str, list[str]]:
    """First word of every printed line -> the others."""
    return {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}


@pytest.fixture
def grid(tmp_path: Path, model_folder: Path) -> Any:
    """Write a grid; more fields replace the standard ones."""

    def write(**fields: Any) -> Path:
        standard = {
            "flags": {
                "model_name_or_path": str(model_folder),
                "max_steps": 2,
                "bits": 32,
                "lora_modules": "q_proj,v_proj",
            },
            "seeds": [0, 1],
            "metric": "train_score",
            "ablations": {"rank": {"lora_r": [8, 2, 4]}, "modules": {"lora_modules": {"Q": "q_proj", "K": "k_proj"}}},
        }
        file = tmp_path / "grid.yaml"
        file.write_text(yaml.safe_dump({**standard, **fields}, sort_keys=False))
        return file

    return write


def test_every_combination_is_a_setting(grid: Any) -> None:
    found = read_grid(grid(ablations={"both": {"lora_r": [2, 4], "share": {"ours": "a", "LoRA": "none"}}}))
    assert [(one.label, one.flags) for one in found.ablations["both"]] == [
        ("2, ours", {"lora_r": "2", "share": "a"}),
        ("2, LoRA", {"lora_r": "2", "share": "none"}),
        ("4, ours", {"lora_r": "4", "share": "a"}),
        ("4, LoRA", {"lora_r": "4", "share": "none"}),
    ]


def test_settings_may_be_listed_one_by_one(grid: Any) -> None:
    rows = [{"label": "0.80", "share_groups": "0-1", "lora_r": 9}, {"lora_r": 8}]
    found = read_grid(grid(ablations={"threshold": rows})).ablations["threshold"]
    assert [(one.label, one.flags) for one in found] == [
        ("0.80", {"share_groups": "0-1", "lora_r": "9"}),
        ("lora_r 8", {"lora_r": "8"}),
    ]


def test_the_cheapest_comes_first_and_equal_settings_run_once(grid: Any, tmp_path: Path) -> None:
    file = grid(
        ablations={"rank": {"lora_r": [8, 2]}, "steps": {"max_steps": [20, 1]}, "same": [{"lora_r": 2}]}, seeds=[0]
    )
    runs = plan_runs(read_grid(file), tmp_path / "out")
    assert runs["same", "lora_r 2", 0] is runs["rank", "2", 0]
    order = [run.folder.relative_to(tmp_path / "out").as_posix() for run in in_order(list(runs.values()))]
    assert order == ["steps/1/seed0", "rank/2/seed0", "rank/8/seed0", "steps/20/seed0"]


def test_all_runs_are_done_and_become_tables(grid: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretend = Pretend()
    ablate(grid(), tmp_path / "out", execute=pretend)
    text = capsys.readouterr().out
    assert len(pretend.commands) == 10 and "10 runs, 0 of them done before" in text and "[10/10]" in text
    rows = cells(text)
    assert rows["2"] == ["2", "200", "2.05", "±", "0.071"] and rows["8"] == ["2", "800", "8.05", "±", "0.071"]
    assert rows["Q"][:2] == ["2", "6,400"]
    files = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert files == {"ablation.md", "ablation.svg", "ablation.png"}
    assert "| rank | seeds | trainable |" in (tmp_path / "out/ablation.md").read_text()


def test_it_goes_on_where_it_stopped(grid: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"rank.2.seed1 failed: out of luck; put it right and start again"):
        ablate(grid(ablations={"rank": {"lora_r": [8, 2]}}), tmp_path / "out", execute=Pretend(stop_after=1))
    pretend = Pretend()
    ablate(tmp_path / "grid.yaml", tmp_path / "out", execute=pretend)
    assert len(pretend.commands) == 3 and "4 runs, 1 of them done before" in capsys.readouterr().out
    again = Pretend()
    ablate(tmp_path / "grid.yaml", tmp_path / "out", execute=again)
    assert again.commands == []


def test_half_a_table_is_there_before_the_end(grid: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError):
        ablate(grid(), tmp_path / "out", execute=Pretend(stop_after=5))
    capsys.readouterr()
    ablate(tmp_path / "grid.yaml", tmp_path / "out", only="table", execute=Pretend())
    rows = cells(capsys.readouterr().out)
    assert rows["8"] == ["1", "800", "8"] and rows["Q"] == ["0", "-", "-"]
    assert (tmp_path / "out/ablation.png").is_file()


def test_the_plan_of_runs_trains_nothing(grid: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretend = Pretend()
    ablate(grid(), tmp_path / "out", only="plan", execute=pretend)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and "100.0% of the most expensive" in lines[-1]
    assert pretend.commands == [] and not (tmp_path / "out").exists()


def test_another_grid_in_the_same_folder_is_refused(grid: Any, tmp_path: Path) -> None:
    ablate(grid(ablations={"rank": {"lora_r": [2]}}), tmp_path / "out", execute=Pretend())
    file = grid(ablations={"rank": {"lora_r": [2]}}, evaluate=[f"{__file__} {{adapter}}"])
    with pytest.raises(UserError, match="holds a run with other settings; the grid has changed"):
        ablate(file, tmp_path / "out", execute=Pretend())


def test_evaluations_follow_each_training(grid: Any, tmp_path: Path, model_folder: Path) -> None:
    pretend, command = Pretend(), f"{__file__} --model {{model}} --adapter {{adapter}} --output {{folder}}/exam"
    ablate(grid(seeds=[0], ablations={"rank": {"lora_r": [2]}}, evaluate=[command]), tmp_path / "out", execute=pretend)
    folder = tmp_path / "out/rank/2/seed0"
    expected = f"{__file__} --model {model_folder} --adapter {folder}/adapter_model --output {folder}/exam"
    assert pretend.commands[1] == expected.split()
    assert json.loads((folder / ENDED).read_text())["evaluate"] == [pretend.commands[1]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ablations": {}}, "has no ablations, so there is nothing to train"),
        ({"ablations": {"rank": {}}}, "ablation rank is empty"),
        ({"ablations": {"rank": []}}, "ablation rank is empty"),
        ({"ablations": {"rank": {"lora_r": []}}}, "ablation rank is empty"),
        (
            {"ablations": {"rank": {"lora_rr": [2]}}},
            "ablation rank, 2: found unknown flag lora_rr;.*did you mean --lora_r",
        ),
        ({"flags": {"modell": "x"}}, "found unknown flag modell"),
        ({"ablations": {"rank": {"lora_r": 2}}}, "found lora_r '2'; need a list of values"),
        ({"ablations": {"rank": {"lora_r": [2, 2]}}}, "has '2' twice"),
        ({"ablations": {"rank": {"lora_r": ["two"]}}}, "--lora_r: found 'two'; need a whole number"),
        ({"ablations": {"rank": {"seed": [1, 2]}}}, "found seed, which the grid decides itself"),
        ({"flags": {"output_dir": "x"}}, "found output_dir, which the grid decides itself"),
        ({"ablations": {"modules": {"lora_modules": ["query"]}}}, "modules query match nothing"),
        ({"ablations": [1]}, "ablations is a list; need a mapping"),
        ({"seeds": []}, "need a list of whole numbers"),
        ({"seeds": [1, 1]}, "one of them twice"),
        ({"metrics": "x"}, "found field 'metrics'; need one of .*; did you mean metric"),
        ({"evaluate": "eval/mmlu.py"}, "need a list of command lines"),
        ({"evaluate": ["no/such/file.py {adapter}"]}, "begins with no file"),
        ({"evaluate": [f"{__file__} {{adaptor}}"]}, "'adaptor'"),
    ],
)
def test_a_grid_that_cannot_run_is_refused_before_anything_runs(
    grid: Any, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    pretend = Pretend()
    with pytest.raises(UserError, match=message) as error:
        ablate(grid(**fields), tmp_path / "out", execute=pretend)
    assert "\n" not in str(error.value)
    assert pretend.commands == [] and not (tmp_path / "out").exists()


def test_a_result_without_the_metric_is_named(grid: Any, tmp_path: Path) -> None:
    file = grid(metric="train_accuracy", seeds=[0], ablations={"rank": {"lora_r": [2]}})
    with pytest.raises(UserError, match=r"seed0/result.json has no number 'train_accuracy'; it has train_score"):
        ablate(file, tmp_path / "out", execute=Pretend())


@pytest.mark.parametrize(
    ("metric", "flags", "evaluate", "need"),
    [
        ("eval_loss", {"do_eval": False, "eval_strategy": "no"}, [], "need do_eval: true in its flags, or a command"),
        ("mmlu_accuracy", {}, [], "need do_mmlu_eval: true in its flags, or a command"),
        ("accuracy", {}, [], "need a command under evaluate"),
        ("accuracy", {}, [f"{__file__} --output elsewhere"], "need a command under evaluate"),
        ("accuracy", {}, [f"{__file__} --output {{folder}}/exam"], None),
        ("mmlu_accuracy", {}, [f"{__file__} {{folder}}"], None),
        ("eval_loss", {"do_eval": True}, [], None),
        ("train_loss", {"do_eval": False}, [], None),
        ("seconds", {}, [], None),
    ],
)
def test_a_metric_that_nothing_measures_is_refused_before_the_first_run(
    grid: Any, tmp_path: Path, model_folder: Path, metric: str, flags: Any, evaluate: list[str], need: str | None
) -> None:
    flags = {"model_name_or_path": str(model_folder), "max_steps": 2, "bits": 32, **flags}
    file = grid(metric=metric, flags=flags, evaluate=evaluate, seeds=[0], ablations={"rank": {"lora_r": [2]}})
    pretend = Pretend()
    if need is None:
        assert len(plan_runs(read_grid(file), tmp_path / "out")) == 1
        return
    with pytest.raises(UserError, match=f"the grid's metric is {metric}, and no run measures it.*{need}"):
        ablate(file, tmp_path / "out", execute=pretend)
    assert pretend.commands == [] and not (tmp_path / "out").exists()


def test_a_file_that_is_no_grid_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none\.yaml: No such file"):
        main(["ablate", str(tmp_path / "none.yaml")])
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"cannot read the grid .*bad\.yaml"):
        main(["ablate", str(tmp_path / "bad.yaml")])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="holds a list; need a YAML mapping"):
        main(["ablate", str(tmp_path / "list.yaml")])


def test_real_trainings_become_a_table(
    grid: Any, tmp_path: Path, data_file: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words.remove("--use_cpu")
    flags = dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True))
    del flags["output_dir"], flags["lora_r"]
    file = grid(
        flags={**flags, "use_cpu": True, "do_eval": True, "max_steps": 1},
        seeds=[0],
        metric="eval_loss",
        ablations={"rank": {"lora_r": [2, 4]}},
    )

    def here(command: Sequence[str], log: Path) -> None:
        train(parse(command[2:]))

    ablate(file, tmp_path / "out", execute=here)
    text = capsys.readouterr().out
    assert "wrote" in text and (tmp_path / "out/rank/2/seed0/adapter_model").is_dir()
    found = json.loads((tmp_path / "out/rank/4/seed0/result.json").read_text())
    assert f"{found['plan']['trainable']:,}" in text and f"{found['metrics']['eval_loss']:.4g}" in text


def test_the_grids_of_the_project_are_sound(root: Path) -> None:
    files = sorted((root / "scripts" / "ablation").glob("*.yaml"))
    assert [file.stem for file in files] == ["commonsense_llama_7b", "tiny"]
    for file in files:
        grid = read_grid(file)
        for settings in grid.ablations.values():
            for setting in settings:
                parse(setting_words({**grid.flags, **setting.flags}, build_parser()))
        assert all((root / command.split()[0]).is_file() for command in grid.evaluate)


def test_what_fails_in_its_process_is_the_last_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"oh no \(all of it in .*log\)"):
        execute(["-c", "print('one'); raise SystemExit('oh no')"], tmp_path / "log")
    assert (tmp_path / "log").read_text().startswith("one\n")
    execute(["-c", "print('fine')"], tmp_path / "log")
    assert (tmp_path / "log").read_text() == "fine\n"


@pytest.mark.slow
def test_a_grid_runs_in_processes_of_its_own(grid: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"failed: error: .*"):
        ablate(grid(flags={**yaml.safe_load(grid().read_text())["flags"], "dataset": "nothing.json"}), tmp_path / "out")


def test_a_grid_is_read_as_it_is_written(tmp_path: Path, model_folder: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        f"flags: {{model_name_or_path: {model_folder}, save_strategy: no, learning_rate: 1e-5, bits: 32, bf16: off}}\n"
        "seeds: [0, 1]\n"
        "metric: train_loss\n"
        "ablations:\n"
        "  modules: {lora_modules: {no: q_proj, both: [q_proj, v_proj]}}\n"
        "  threshold: [{label: 0.80, lora_r: 4}, {lora_dropout: 1e-1}]\n"
    )
    grid = read_grid(file)
    assert [one.label for one in grid.ablations["modules"]] == ["no", "both"]
    assert [one.label for one in grid.ablations["threshold"]] == ["0.80", "lora_dropout 1e-1"]
    assert grid.seeds == (0, 1)
    runs = plan_runs(grid, tmp_path / "out")
    args = parse(runs["modules", "both", 1].words)
    assert args.adapter_settings.modules == ["q_proj", "v_proj"]
    assert (args.train["save_strategy"], args.train["learning_rate"], args.train["seed"]) == ("no", 1e-5, 1)


def test_a_grid_names_no_setting_twice_and_no_types_of_python(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("seeds: [0]\nablations: {rank: {lora_r: [4]}}\nseeds: [1]\n")
    with pytest.raises(UserError, match=r"grid.yaml: found seeds twice, in lines 1 and 3"):
        read_grid(file)
    file.write_text("flags: lora_r=4\nablations: {rank: {lora_r: [4]}}\n")
    with pytest.raises(UserError, match=r"grid.yaml: flags is 'lora_r=4'; need a mapping"):
        read_grid(file)
    file.write_text("flags: {output-dir: x}\nablations: {rank: {lora_r: [4]}}\n")
    with pytest.raises(UserError, match="found output-dir, which the grid decides itself"):
        read_grid(file)


def test_a_run_that_ended_under_other_words_of_one_meaning_is_done(tmp_path: Path, model_folder: Path) -> None:
    """Earlier versions passed `bf16: true` on as `True`."""
    file = tmp_path / "grid.yaml"
    file.write_text(
        f"flags: {{model_name_or_path: {model_folder}, bits: 32, tf32: true}}\nmetric: train_loss\n"
        "ablations: {r: {lora_r: [4]}}\n"
    )
    run = plan_runs(read_grid(file), tmp_path / "out")["r", "4", 0]
    settings = {**run.settings, "train": ["True" if word == "true" else word for word in run.words]}
    assert settings != run.settings
    run.folder.mkdir(parents=True)
    (run.folder / ENDED).write_text(json.dumps(settings))
    assert is_done(run)
    settings["train"] = ["False" if word == "true" else word for word in run.words]
    (run.folder / ENDED).write_text(json.dumps(settings))
    with pytest.raises(UserError, match="a run with other settings"):
        is_done(run)
