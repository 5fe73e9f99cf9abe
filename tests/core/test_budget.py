"""Plans within a budget: the ranks are the largest that fit, and the recommendation says why."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from saved_adapters import saved

from sharelora.cli.commands import main
from sharelora.cli.plan import amount, size_in_bytes
from sharelora.models.known import meta_model
from sharelora.plan.budget import RULES, Budget, Fit, fits, module_sets, recommend, render
from sharelora.plan.plan import FILE_HEADER, SharingPlan
from sharelora.support.errors import UserError
from sharelora.tuner.sites import find_sites


@pytest.mark.parametrize("budget", [Budget(5_000_000), Budget(file=20_000_000), Budget(5_000_000, 8_000_000)])
def test_one_more_rank_would_not_fit(budget: Budget) -> None:
    sets = module_sets(find_sites(meta_model("roberta-large")))
    found = [fit for fit in fits(sets, budget) if fit.rank]
    assert len(found) > 5
    for fit in found:
        plan = SharingPlan.build(sets[fit.modules], RULES[fit.sharing], fit.rank)
        assert plan.num_parameters == fit.parameters <= (budget.parameters or fit.parameters)
        assert fit.bytes == plan.file_bytes <= (budget.file or fit.bytes)
        more = Fit(fit.modules, fit.sharing, fit.rank + 1, fit.unit, fit.matrices)
        over = more.parameters > (budget.parameters or more.parameters) or more.bytes > (budget.file or more.bytes)
        assert over or fit.rank == min(min(site.d_in, site.d_out) for site in sets[fit.modules])


def test_the_file_is_as_large_as_the_estimate(tmp_path: Path) -> None:
    _, adapter, _ = saved(tmp_path, "a")
    plan = SharingPlan.from_json(json.loads((adapter / "adapter_config.json").read_text())["plan"])
    real = (adapter / "adapter_model.safetensors").stat().st_size
    assert 0 <= plan.file_bytes - real <= FILE_HEADER * len(plan.matrices)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("llama3-8b", ["all", "k_proj,o_proj,q_proj,v_proj", "q_proj,v_proj"]),
        ("roberta-base", ["all", "dense,key,query,value", "query,value"]),
        ("gpt2", ["all", "c_attn,c_proj"]),
    ],
)
def test_the_usual_sets_of_modules(model: str, names: list[str]) -> None:
    assert list(module_sets(find_sites(meta_model(model)))) == names


def fit(modules: str, sharing: str, rank: int) -> Fit:
    return Fit(modules, sharing, rank, 10, 2)


def test_share_a_is_recommended_on_the_most_modules_with_a_worthwhile_rank() -> None:
    found = [fit("all", "a", 7), fit("all", "ab", 90), fit("qv", "none", 64), fit("qv", "a", 99)]
    assert recommend(found)[0] == found[3]
    assert recommend([fit("all", "a", 8), *found[1:]])[0] == fit("all", "a", 8)
    assert recommend(found[:3])[0] == found[2]
    best, reason = recommend([fit("all", "a", 2), fit("qv", "ab", 5)])
    assert best == fit("qv", "ab", 5) and "no plan has a rank of 8" in reason


def test_where_nothing_fits_the_smallest_plan_is_named() -> None:
    sets = module_sets(find_sites(meta_model("roberta-base")))
    with pytest.raises(UserError, match=r"budget of 1,000 parameters; the smallest plan, share ab on query,value at"):
        render(fits(sets, Budget(1000)), Budget(1000))


@pytest.mark.parametrize(("text", "count"), [("5M", 5_000_000), ("1.5k", 1500), ("7", 7), ("1B", 10**9)])
def test_counts(text: str, count: int) -> None:
    assert amount(text) == count


@pytest.mark.parametrize(("text", "count"), [("20MB", 20_000_000), ("1.5 kB", 1500), ("512b", 512), ("3g", 3 * 10**9)])
def test_sizes(text: str, count: int) -> None:
    assert size_in_bytes(text) == count


@pytest.mark.parametrize("text", ["", "0", "-3", "5X", "five"])
def test_other_amounts_are_refused(text: str) -> None:
    for read in (amount, size_in_bytes):
        with pytest.raises(argparse.ArgumentTypeError, match="need a"):
            read(text)


def run(capsys: pytest.CaptureFixture[str], text: str) -> str:
    assert main(text.split()) == 0
    return capsys.readouterr().out


def test_the_command_lists_and_recommends(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = run(capsys, f"plan --model llama3-8b --max_params 5M --json {tmp_path / 'plan.json'}")
    assert "ways fit into 5,000,000 parameters" in text
    flags = text.splitlines()[-1].removeprefix("recommended: ").partition(": ")[0]
    again = run(capsys, f"plan --model llama3-8b {flags}")
    plan = SharingPlan.from_json(json.loads((tmp_path / "plan.json").read_text()))
    assert plan.hash in again and plan.num_parameters <= 5_000_000


def test_what_is_given_is_not_varied(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "plan --model gpt2 --max_file 1MB --share ab --share_groups 0-5,6-11 --lora_modules c_attn")
    rows = [line for line in text.splitlines() if line.startswith("c_attn")]
    assert len(rows) == 1 and "ab --share_groups 0-5,6-11" in rows[0]
    fixed = run(capsys, "plan --model gpt2 --max_params 5M --lora_r 4")
    assert {line.split()[-4] for line in fixed.splitlines()[1:-2]} == {"4"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--max_params 10", "found a budget of 10 parameters; the smallest plan"),
        ("--max_params 5X", "need a count such as 5M"),
        ("--max_file 5M --share_plan x.json", "a plan has its ranks already"),
        ("--max_file 50B", "the smallest plan"),
    ],
)
def test_bad_budgets(flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(["plan", "--model", "gpt2", *flags.split()])
