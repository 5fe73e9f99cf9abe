"""Which modules are adapted in a model that sees, and the second paper's counts for LLaVA-1.5-7B, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from sharelora.cli.commands import main
from sharelora.flags.sharing import parse_modules
from sharelora.layer_groups import Grouping
from sharelora.layer_groups.grouping import expanded_rank
from sharelora.models.vision import language_modules, language_path
from sharelora.plan.plan import SharingPlan
from sharelora.plan.rule import SharingRule
from sharelora.support.errors import UserError
from sharelora.tuner.sites import find_sites

GROUPS = ((2, 3), (4, 5), (6, 7), (17, 18), (19, 20), (21, 22, 23), (24, 25, 26), (27, 28, 29))


@pytest.fixture(scope="module")
def llava_7b() -> Any:
    with torch.device("meta"):
        return LlavaForConditionalGeneration(LlavaConfig(text_config=LlamaConfig(vocab_size=32064)))


def test_the_counts_are_the_papers(llava_7b: Any) -> None:
    sites = find_sites(llava_7b, language_modules(llava_7b, parse_modules("all")))
    assert len(sites) == 7 * 32
    assert {site.kind for site in sites} == {
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    }
    assert SharingPlan.build(sites, SharingRule("none"), 64).num_parameters == 159_907_840
    assert SharingPlan.build(sites, SharingRule("ab", groups=GROUPS), 85).num_parameters == 139_372_800


def test_the_larger_rank_is_that_of_the_papers_table() -> None:
    assert expanded_rank(Grouping(32, GROUPS, (0.9,) * len(GROUPS)), 64, "tables") == 85


def test_names_mean_modules_of_the_language_model(llava_7b: Any) -> None:
    assert language_path(llava_7b) == "model.language_model"
    wide = find_sites(llava_7b, ["q_proj", "v_proj"])
    confined = find_sites(llava_7b, language_modules(llava_7b, parse_modules("q_proj, self_attn.v_proj")))
    assert len(wide) == 2 * (32 + 24) and len(confined) == 2 * 32
    assert all(site.path.startswith("model.language_model.layers.") for site in confined)


def test_the_commands_count_the_language_model_alone(
    llava_7b: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llava_7b.config.architectures = [type(llava_7b).__name__]
    llava_7b.config.save_pretrained(tmp_path)
    main(["plan", "--model", str(tmp_path), "--share", "none"])
    assert "159,907,840 parameters" in capsys.readouterr().out
    main(["plan", "--model", str(tmp_path), "--share", "none", "--lora_modules", r"re:.*vision_tower.*\.q_proj"])
    assert f"{24 * 64 * 2 * 1024:,} parameters" in capsys.readouterr().out
    main(["estimate", "--model", str(tmp_path), "--bits", "4"])
    assert "adapter" in capsys.readouterr().out


def test_a_pattern_is_taken_whole_and_an_invalid_one_is_refused() -> None:
    assert parse_modules(r"re:a\.(b|c),d") == r"a\.(b|c),d"
    with pytest.raises(UserError, match=r"found 're:\(', an invalid pattern: missing \)"):
        parse_modules("re:(")


def test_a_model_of_other_parts_is_refused() -> None:
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1))
    with pytest.raises(UserError, match="LlamaForCausalLM has no module multi_modal_projector"):
        language_path(plain)
