"""Figures show the numbers of results, adapters and estimates, and print them; a file that lacks them is named."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from sharelora import ShareLoraConfig
from sharelora.cli.commands import main
from sharelora.reporting.figures.adapters import draw_adapters, draw_spectra, effective_rank, read_spectra
from sharelora.reporting.figures.experiments import read_experiments
from sharelora.reporting.figures.scores import draw_parameters, draw_seeds, draw_steps
from sharelora.reporting.results import write_result
from sharelora.support.errors import UserError

LAYERS, RANK = 3, 4


def figures(text: str) -> None:
    assert main(["figures", *text.split()]) == 0


def run(folder: Path, seed: int, score: float, share: str = "a", steps: int = 3) -> Path:
    """Leave what a training leaves: result.json and loss.csv."""
    plan = {"share": share, "hash": share, "trainable": 1000 if share == "a" else 2000}
    write_result(folder, "train", {"seed": seed, "share": share}, {"score": score, "name": "x"}, plan, model="tiny")
    with (folder / "loss.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["step", "loss", "eval_loss"])
        rows.writerows([step, 9 - step, score + step if step % 2 else ""] for step in range(1, steps + 1))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for share, scores in (("a", (1.0, 3.0)), ("none", (5.0, 6.0))):
        for seed, score in enumerate(scores):
            run(tmp_path / "runs" / f"{share}_seed{seed}", seed, score, share)
    return tmp_path / "runs"


def adapter(folder: Path, lora: bool = False, layers: int = LAYERS, modules: tuple[str, ...] = ("q_proj",)) -> Path:
    """Save an adapter whose B has been trained."""
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4, vocab_size=48
    )
    settings: dict[str, Any] = {"r": RANK, "lora_alpha": 6, "target_modules": list(modules)}
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(**settings) if lora else ShareLoraConfig(**settings))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [0.5] * 7])
def test_equal_singular_values_all_count(values: list[float]) -> None:
    assert effective_rank([*values, 0.0]) == pytest.approx(len(values))


def test_small_singular_values_count_little() -> None:
    assert 1 < effective_rank([1.0, 1e-4]) < 1.01
    assert effective_rank([2.0, 1.0]) == pytest.approx(3 / 2 ** (2 / 3))
    assert effective_rank([0.0, 0.0]) == 0


def test_runs_that_differ_in_the_seed_are_one_experiment(runs: Path) -> None:
    found = {one.name: sorted(one.values("score")) for one in read_experiments([runs])}
    assert found == {"a": [1.0, 3.0], "none": [5.0, 6.0]}


def test_seeds_are_shown_with_mean_and_deviation(runs: Path) -> None:
    drawn = draw_seeds(read_experiments([runs]), "score")
    assert drawn.rows == [("run", "seeds", "score"), ("a", "2", "2 ± 1.4"), ("none", "2", "5.5 ± 0.71")]
    [axes] = drawn.picture.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "none"]


def test_a_score_over_steps_is_the_mean_of_the_seeds(runs: Path) -> None:
    drawn = draw_steps(read_experiments([runs]), "eval_loss")
    assert drawn.rows[1:3] == [("a", "2", "1", "3 ± 1.4"), ("a", "2", "3", "5 ± 1.4")]
    line = drawn.picture.axes[0].lines[0]
    assert line.get_xdata().tolist() == [1, 3] and line.get_ydata().tolist() == [3.0, 5.0]


def test_the_course_in_a_result_comes_before_the_log(tmp_path: Path) -> None:
    course = [{"step": 4, "dev": 0.25}, {"step": 8, "dev": 0.5}]
    write_result(tmp_path / "one", "train", {"seed": 0}, {"course": course}, {"trainable": 10})
    assert [row[2:] for row in draw_steps(read_experiments([tmp_path]), "dev").rows[1:]] == [
        ("4", "0.25"),
        ("8", "0.5"),
    ]


def test_seeds_are_compared_at_the_steps_that_all_have(runs: Path) -> None:
    run(runs / "a_seed1", 1, 3.0, steps=2)
    assert [row[2] for row in draw_steps(read_experiments([runs / "a_seed0", runs / "a_seed1"]), "eval_loss").rows] == [
        "step", "1",
    ]  # fmt: skip


def test_a_score_stands_against_the_trained_parameters(runs: Path) -> None:
    drawn = draw_parameters(read_experiments([runs]), "score")
    assert drawn.rows[1:] == [("a", "2", "1,000", "2 ± 1.4"), ("none", "2", "2,000", "5.5 ± 0.71")]


def test_singular_values_are_those_of_the_dense_change(tmp_path: Path) -> None:
    torch.manual_seed(1)
    shared, plain = adapter(tmp_path / "shared"), adapter(tmp_path / "plain", lora=True)
    for folder in (shared, plain):
        found = read_spectra(folder, "x").kinds["self_attn.q_proj"]
        assert list(found) == [0, 1, 2] and all(len(values) == RANK for values in found.values())
    from sharelora.convert.adapter_file import read_adapter

    own = read_adapter(shared)
    a, b = own.pair("model.layers.2.self_attn.q_proj")
    dense = torch.linalg.svdvals(6 / RANK * b.double() @ a.double())[:RANK]
    torch.testing.assert_close(
        torch.tensor(read_spectra(shared, "x").kinds["self_attn.q_proj"][2], dtype=torch.float64), dense
    )


def test_adapters_stand_below_each_other(tmp_path: Path) -> None:
    shared, plain = adapter(tmp_path / "s", modules=("q_proj", "v_proj")), adapter(tmp_path / "p", lora=True)
    drawn = draw_adapters([read_spectra(plain, "LoRA"), read_spectra(shared, "ShareA")])
    assert [row[:4] for row in drawn.rows[1:]] == [
        ("LoRA", "self_attn.q_proj", "3", "4"),
        ("ShareA", "self_attn.q_proj", "3", "4"),
    ]
    assert all(1 < float(row[4]) <= RANK for row in drawn.rows[1:])
    other = adapter(tmp_path / "other", modules=("k_proj",))
    with pytest.raises(UserError, match="no kind of module in common"):
        draw_adapters([read_spectra(plain, "LoRA"), read_spectra(other, "other")])


def test_joint_singular_values_have_a_panel_for_each_matrix(tmp_path: Path) -> None:
    spectra = {f"lora_A/self_attn/{kind}/*/2x32": [3.0, 2.0, 1.0, 1e-12] for kind in "abcdef"}
    files = draw_spectra({**spectra, "lora_A/zero/*/2x32": [0.0]}, dict.fromkeys(spectra, 2), tmp_path / "values")
    assert [file.name for file in files] == ["values.svg", "values.png"]
    # Matplotlib writes what a text says into the SVG as a comment.
    assert [files[0].read_text().count(f"A of {kind} ") for kind in (*"abcdef", "zero")] == [1] * 6 + [0]


def test_memory_over_rank_is_the_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures(f"memory --model gpt2 --ranks 64 4 --bits 4 --out {tmp_path / 'memory'}")
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[1:3]] == ["4", "64"] and "QShareAB trained GB" in text
    assert {file.name for file in tmp_path.iterdir()} == {"memory.svg", "memory.png", "memory.md"}
    figures(f"memory --model gpt2 --ranks 64 4 --bits 16 --out {tmp_path / 'memory'}")
    assert "QShare" not in (tmp_path / "memory.md").read_text()


def test_pictures_of_equal_numbers_are_equal_files(runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        figures(f"seeds {runs} --metric score --out {tmp_path / name}")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    figures(f"steps {runs} --metric loss --out {tmp_path / 'steps'}")
    figures(f"parameters {runs} --metric score --out {tmp_path / 'parameters'}")
    figures(f"adapters {adapter(tmp_path / 'a')} --out {tmp_path / 'values'}")
    assert (tmp_path / "values.md").read_text().startswith("| adapter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "figure"),
        ("stepps runs", "invalid choice: 'stepps'"),
        ("steps RUNS --metrik x", "did you mean --metric"),
        ("seeds nothing", "no such path"),
        (
            "seeds RUNS --metric accuracy",
            r"a_seed0/result.json has no number 'accuracy'; it has score, trainable",
        ),
        ("seeds RUNS --metric name", "has no number 'name'"),
        ("steps RUNS --metric accuracy", "has no number 'accuracy over steps'; it has eval_loss, loss"),
        ("memory --model gpt22", "no model 'gpt22'"),
        ("memory --ranks 0", "at least 1"),
        ("adapters nothing/at/all", "not found"),
        ("adapters x y --names one", "found 1 names for 2 adapters"),
    ],
)
def test_bad_input_is_one_line(runs: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        main(["figures", *text.replace("RUNS", str(runs)).split()])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.png"))


def test_without_matplotlib_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.reporting.pictures.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"found no matplotlib.*plots"):
        figures("memory --model gpt2")


def test_every_figure_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    from sharelora.cli.figures import FIGURES

    assert len(FIGURES) == 5
    for name in FIGURES:
        with pytest.raises(SystemExit) as done:
            figures(f"{name} --help")
        assert done.value.code == 0 and f"example: sharelora figures {name}" in capsys.readouterr().out
