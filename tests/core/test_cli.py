"""The command line prints what the library says, and ends with code 2 and one line on bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from saved_adapters import plain_lora, saved

from sharelora import __version__
from sharelora.cli.commands import COMMANDS, entry, main
from sharelora.plan.plan import SharingPlan
from sharelora.reporting.results import write_result
from sharelora.support.errors import UserError


def run(capsys: pytest.CaptureFixture[str], text: str) -> str:
    assert main(text.split()) == 0
    return capsys.readouterr().out


def test_a_plan_is_printed_with_its_counts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    flags = "--model llama3-8b --lora_modules all --lora_r 64"
    text = run(capsys, f"plan {flags} --share a --json {file}")
    assert "90,570,752 parameters in 231 matrices for 224 sites; LoRA has 167,772,160 (46.0% fewer)" in text
    assert "self_attn.q_proj" in text and "64x4096" in text
    assert SharingPlan.from_json(json.loads(file.read_text())).num_parameters == 90_570_752
    assert run(capsys, f"plan {flags} --share_plan {file}") == text


def test_an_estimate_says_what_is_needed_and_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(
        capsys, "estimate --model llama3-70b --share a --bits 4 --tokens 1024 --optim paged_adamw_8bit --device cuda"
    )
    names = [line.split("  ")[0] for line in text.splitlines()]
    assert names[:4] == ["base", "adapter", "gradients", "optimizer"]
    assert "70,553,706,496 parameters, 4-bit" in text and "434,896,896 parameters" in text
    assert "RAM free" in text and ("fits" in text or "does NOT fit" in text)


def test_adapters_are_inspected_exported_merged_and_imported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base, adapter, _ = saved(tmp_path, "a")
    assert "checksum verified" in run(capsys, f"inspect {adapter}")
    assert "6 modules of rank 4" in run(capsys, f"export {adapter} {tmp_path / 'plain'}")
    assert "6 of " in run(capsys, f"merge {base} {adapter} {tmp_path / 'merged'} --dtype bf16")
    text = run(capsys, f"import {tmp_path / 'plain'} {tmp_path / 'back'} --base {base} --share a")
    assert "6 sites, 832 elements" in text
    assert (tmp_path / "merged/model.safetensors").is_file() and (tmp_path / "back/adapter_config.json").is_file()


def test_a_lora_is_compressed_and_its_singular_values_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base, plain, _ = plain_lora(tmp_path, tie=False)
    flags = f"compress {plain} {tmp_path / 'shared'} --base {base} --share a"
    text = run(capsys, f"{flags} --rank 3 --plot {tmp_path / 'values'}")
    assert "self_attn.q_proj      3  4 -> 3" in text and "624 elements; the source has 1,344 (53.6% fewer)" in text
    assert (tmp_path / "values.svg").is_file() and (tmp_path / "values.png").is_file()
    tied = plain_lora(tmp_path / "tied", tie=True)[1]
    flags = f"compress {tied} {tmp_path / 'same'} --base {base} --rank auto --per_site"
    text = run(capsys, f"{flags} --plot {tmp_path / 'none'}")
    assert "model.layers.2.self_attn.v_proj" in text and "nothing is drawn" in text
    assert not (tmp_path / "none.svg").exists()


def test_runs_are_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for seed in (0, 1):
        write_result(tmp_path / f"run_s{seed}", "train", {"seed": seed}, {"eval_loss": 1.0 + seed})
    assert run(capsys, f"compare {tmp_path}").count("train") == 2
    assert "1.5 ± 0.70711" in run(capsys, f"compare {tmp_path / 'run_s0'} {tmp_path / 'run_s1'} --by_seed")
    assert "| run" in run(capsys, f"compare {tmp_path} --markdown --metrics eval_loss")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == f"sharelora {__version__}\n"


@pytest.mark.parametrize("command", ["", "--help", *(f"{name} --help" for name in COMMANDS)])
def test_help_is_there_for_everything(capsys: pytest.CaptureFixture[str], command: str) -> None:
    try:
        assert main(command.split()) == 0
    except SystemExit as done:
        assert done.code == 0
    text = capsys.readouterr().out
    assert "usage: sharelora" in text
    if command.partition(" ")[0] in COMMANDS:
        assert "example: sharelora" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plann --model gpt2", "need one of plan, .*; did you mean plan"),
        ("plan", "--model"),
        ("plan --model gpt2 --shar a", "did you mean --share"),
        ("plan --model gpt22", "no model 'gpt22'.*nearest: gpt2"),
        ("plan --model gpt2 --share c", "share='c' is unknown"),
        ("plan --model gpt2 --lora_modules q_proj", "q_proj match nothing"),
        ("plan --model gpt2 --lora_r 0", "at least 1"),
        ("plan --model gpt2 --share a --share_groups 10-13", r"names layers \[12, 13\]"),
        ("plan --model gpt2 --share a --share_groups 0,1;1,2", "layer 1 is in groups 0 and 1"),
        ("plan --model gpt2 --share_plan nothing.json", "cannot read nothing.json"),
        ("estimate --model gpt2 --optim adamm", "--optim"),
        ("inspect nothing/at/all", "not found"),
        ("compare nothing", "no such path"),
        ("export one", "out"),
        ("compress plain", "out"),
        ("compress nothing out --rank some", "argument --rank"),
        ("compress nothing out --rank 8 --energy 0.9", "each decides the rank"),
        ("compress nothing/at/all out --energy 2", "found energy 2"),
    ],
)
def test_bad_input_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        main(text.split())
    assert "\n" not in str(error.value)


def test_matrices_that_disagree_are_not_imported(tmp_path: Path) -> None:
    base, plain, _ = plain_lora(tmp_path, tie=False)
    with pytest.raises(UserError, match="do not agree with the plan at 4 of 6 sites"):
        main(["import", str(plain), str(tmp_path / "out"), "--base", str(base), "--share", "a"])


def test_bad_input_ends_the_program_with_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sharelora", "plan", "--model", "gpt2", "--share", "c"])
    with pytest.raises(SystemExit) as done:
        entry()
    assert done.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: share='c' is unknown") and captured.out == ""


@pytest.mark.slow
def test_the_program_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "sharelora", "plan", "--model", "gpt2", "--share", "b", "--lora_r", "4"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "parameters in" in done.stdout
