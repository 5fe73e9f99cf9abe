"""A plain LoRA becomes the nearest shared one: exact where that is possible, and with its error said where not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from saved_adapters import CASES, plain_lora, saved
from test_checkpoint_import import THIRDS, loralib_gpt2
from torch import Tensor
from toy_models import bank, language_batch, llama, logits, roberta, shake, train

from sharelora import SharingRule, UserError
from sharelora.convert import RankSelection, compress, export_lora, import_lora
from sharelora.convert.adapter_file import read_adapter
from sharelora.convert.compress_result import Compression
from sharelora.convert.sources import read_lora

ALL = RankSelection(energy=1.0)
SHARES = [("a", "layers"), ("b", "layers"), ("a", "modules"), ("a", "both")]


def loaded(base: Path, adapter: Path, kind: Any = transformers.LlamaForCausalLM) -> PeftModel:
    return PeftModel.from_pretrained(kind.from_pretrained(base), str(adapter))


def compressed(
    tmp_path: Path, sharing: SharingRule | dict[str, Any], size: RankSelection | None = None, name: str = "shared"
) -> Compression:
    """Compress the LoRA that a test has saved as `plain` beside its `base`."""
    return compress(tmp_path / "plain", tmp_path / name, sharing, size, tmp_path / "base")


def source_deltas(folder: Path) -> dict[str, Tensor]:
    """Dense scaling * B A of every module of a plain LoRA."""
    source = read_lora(folder)
    return {path: source.scalings[path] * b.double() @ a.double() for path, (a, b) in source.pairs.items()}


def deltas(folder: Path) -> dict[str, Tensor]:
    """The same of a compact adapter."""
    adapter = read_adapter(folder)
    pairs = {path: adapter.pair(path) for path in adapter.plan.by_path}
    return {path: adapter.scaling(path) * b.double() @ a.double() for path, (a, b) in pairs.items()}


def lora_of_shared_rank(tmp_path: Path, rank: int, **settings: Any) -> tuple[Path, Path, Tensor]:
    """Save a LoRA in which all As of a kind mix the same few rows, so that one A of that rank serves all layers."""
    base = llama()
    base.save_pretrained(tmp_path / "base")
    model = shake(get_peft_model(base, LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], **settings)))
    rows = torch.randn(rank, 32)
    for name, value in model.named_parameters():
        if "lora_A" in name:
            value.data.copy_(torch.randn(value.shape[0], rank) @ rows)
    model.save_pretrained(str(tmp_path / "plain"))
    return tmp_path / "base", tmp_path / "plain", logits(model)


@pytest.mark.parametrize(("share", "across"), SHARES)
def test_with_all_energy_the_model_stays_the_same(tmp_path: Path, share: str, across: str) -> None:
    base, _, expected = plain_lora(tmp_path, tie=False)
    done = compressed(tmp_path, SharingRule(share, across=across), ALL)
    config = json.loads((tmp_path / "shared" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    torch.testing.assert_close(logits(loaded(base, tmp_path / "shared")), expected, rtol=1e-4, atol=1e-5)
    assert done.relative < 1e-6 and done.plan.shares
    assert json.loads((tmp_path / "shared/adapter_config.json").read_text())["share"] == share


@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": {"layers.1.self_attn.q_proj": 2}},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.0.self_attn.v_proj": 11}},
        {"use_rslora": True},
        {"use_dora": True},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_ranks_scalings_and_what_stands_beside_the_adapter_are_carried_over(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    base, _, expected = plain_lora(tmp_path, tie=False, **settings)
    done = compressed(tmp_path, SharingRule("a"), ALL)
    torch.testing.assert_close(logits(loaded(base, tmp_path / "shared")), expected, rtol=1e-4, atol=1e-5)
    assert bool(done.notes) == ("use_dora" in settings) and done.relative < 1e-6


@pytest.mark.parametrize("size", [RankSelection(), RankSelection(rank=5), RankSelection(energy=0.9999999)])
def test_a_shared_rank_that_is_there_is_found(tmp_path: Path, size: RankSelection) -> None:
    base, _, expected = lora_of_shared_rank(tmp_path, rank=5)
    size = ALL if size == RankSelection() else size
    done = compressed(tmp_path, SharingRule("a"), size)
    assert {entry.r for entry in done.plan.entries} == {5}
    torch.testing.assert_close(logits(loaded(base, tmp_path / "shared")), expected, rtol=1e-4, atol=1e-5)
    values = done.spectra["lora_A/self_attn/q_proj/*/5x32"]
    assert len(values) == 12 and values[4] > 1e-3 * values[0] > 1e4 * values[5]


@pytest.mark.parametrize("share", ["a", "b"])
def test_a_lower_rank_is_as_good_as_a_dense_svd_of_the_stack(tmp_path: Path, share: str) -> None:
    _, plain, _ = plain_lora(tmp_path, tie=False, alpha_pattern={"layers.2.self_attn.q_proj": 17})
    done = compressed(tmp_path, SharingRule(share), RankSelection(rank=3))
    before, after, left, whole = source_deltas(plain), deltas(tmp_path / "shared"), 0.0, 0.0
    for kind in ("q_proj", "v_proj"):
        dense = torch.cat([delta for path, delta in before.items() if kind in path], dim=0 if share == "a" else 1)
        left += float(torch.linalg.svdvals(dense)[3:].square().sum())
        whole += float(dense.square().sum())
    assert done.relative == pytest.approx(math.sqrt(left / whole), rel=1e-5)
    assert 0.3 < done.relative < 1
    for one in done.errors:
        assert one.relative == pytest.approx(
            float((before[one.site] - after[one.site]).norm() / before[one.site].norm())
        )


def test_sharing_both_gives_the_best_product_for_all_layers(tmp_path: Path) -> None:
    _, plain, _ = plain_lora(tmp_path, tie=False)
    done = compressed(tmp_path, SharingRule("ab"), RankSelection(rank=2))
    before, after = source_deltas(plain), deltas(tmp_path / "shared")
    for kind in ("q_proj", "v_proj"):
        mean = torch.stack([delta for path, delta in before.items() if kind in path]).mean(0)
        u, s, v = torch.linalg.svd(mean, full_matrices=False)
        for path in (path for path in after if kind in path):
            torch.testing.assert_close(after[path], u[:, :2] * s[:2] @ v[:2], rtol=1e-4, atol=1e-5)
    assert done.plan.num_parameters == 2 * (32 + 32) + 2 * (32 + 16)


def test_q_and_v_of_unequal_width_share_one_a_and_their_bs(tmp_path: Path) -> None:
    plain_lora(tmp_path, tie=False)
    done = compressed(tmp_path, SharingRule("ab", across="both"), RankSelection(rank=4))
    assert len(done.plan.matrices) == 3 and done.plan.num_parameters == 4 * (32 + 32 + 16)
    with_own_a = compressed(tmp_path, SharingRule("ab"), RankSelection(rank=4), "more")
    assert with_own_a.relative < done.relative < 1


@pytest.mark.parametrize("size", [None, RankSelection(rank=4)])
def test_an_adapter_that_already_shares_is_taken_over_bit_by_bit(tmp_path: Path, size: RankSelection | None) -> None:
    base, plain, _ = plain_lora(tmp_path, tie=True)
    import_lora(plain, tmp_path / "imported", SharingRule("a"), base)
    done = compressed(tmp_path, SharingRule("a"), size)
    first, second = read_adapter(tmp_path / "imported"), read_adapter(tmp_path / "shared")
    assert first.plan == second.plan and first.matrices.keys() == second.matrices.keys()
    assert all(torch.equal(first.matrices[name], second.matrices[name]) for name in first.matrices)
    assert done.relative == 0 and done.spectra == {}


def test_what_already_shares_gets_smaller_when_asked(tmp_path: Path) -> None:
    plain_lora(tmp_path, tie=True)
    done = compressed(tmp_path, SharingRule("a"), RankSelection(energy=0.7))
    assert done.relative**2 < 0.3 and all(entry.r < 4 for entry in done.plan.entries)


def test_layers_outside_the_groups_stay_as_they_are(tmp_path: Path) -> None:
    plain_lora(tmp_path, tie=False)
    done = compressed(tmp_path, SharingRule("ab", groups=((0, 1),)), RankSelection(rank=2))
    errors = {one.site: one for one in done.errors}
    for kind in ("q_proj", "v_proj"):
        assert errors[f"model.layers.2.self_attn.{kind}"].relative == 0
        assert errors[f"model.layers.2.self_attn.{kind}"].rank == 4
        assert errors[f"model.layers.0.self_attn.{kind}"].rank == 2
        assert errors[f"model.layers.0.self_attn.{kind}"].relative > 0.1


def test_a_plan_written_by_hand_says_who_shares(tmp_path: Path) -> None:
    base, _, expected = plain_lora(tmp_path, tie=False)
    rows = [
        {"path": "*.q_proj", "a": "q", "b": "{kind}/{layer}", "r": 64},
        {"path": "*", "a": "v/{layer}", "b": "all", "r": 64},
    ]
    done = compressed(tmp_path, {"sites": rows}, ALL)
    torch.testing.assert_close(logits(loaded(base, tmp_path / "shared")), expected, rtol=1e-4, atol=1e-5)
    assert {entry.a for entry in done.plan.entries if "q_proj" in entry.site.path} == {"lora_A/q/12x32"}


def test_slices_of_a_fused_module_share(tmp_path: Path) -> None:
    base, expected, state = loralib_gpt2(tmp_path)
    for name, tensor in state.items():
        if "lora_A" in name:
            state[name] = torch.randn_like(tensor)
    torch.save(state, tmp_path / "lora.bin")
    model = transformers.GPT2LMHeadModel
    import_lora(tmp_path / "lora.bin", tmp_path / "plain", SharingRule("none"), base, alpha=32, enable_lora=THIRDS)
    expected = logits(loaded(base, tmp_path / "plain", model))
    done = compress(tmp_path / "lora.bin", tmp_path / "shared", SharingRule("a"), ALL, base, 32, THIRDS)
    torch.testing.assert_close(logits(loaded(base, tmp_path / "shared", model)), expected, rtol=1e-4, atol=1e-5)
    assert {entry.r for entry in done.plan.entries} == {8} and len(done.errors) == 4


def test_a_classifier_keeps_its_head(tmp_path: Path) -> None:
    base = roberta()
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    model = shake(shake(get_peft_model(base, config)), part="modules_to_save")
    model.save_pretrained(str(tmp_path / "plain"))
    compressed(tmp_path, SharingRule("b"), ALL)
    back = loaded(tmp_path / "base", tmp_path / "shared", transformers.RobertaForSequenceClassification)
    torch.testing.assert_close(logits(back), logits(model), rtol=1e-4, atol=1e-5)


def test_as_are_as_large_as_before(tmp_path: Path) -> None:
    base, plain, _ = plain_lora(tmp_path, tie=False)
    compressed(tmp_path, SharingRule("a"), RankSelection(rank=4))
    rows = torch.cat([a.flatten() for path, (a, _) in read_lora(plain).pairs.items() if "q_proj" in path])
    shared = bank(loaded(base, tmp_path / "shared"))["lora_A/self_attn/q_proj/*/4x32"]
    assert float(shared.detach().square().mean()) == pytest.approx(float(rows.square().mean()), rel=1e-4)


def test_a_tuned_adapter_loses_little_and_further_tuning_wins_it_back(tmp_path: Path) -> None:
    base = llama()
    base.save_pretrained(tmp_path / "base")
    batch = language_batch()
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    start, *_, _ = train(model, batch, steps=40)
    tuned = float(model(**batch).loss.detach())
    model.save_pretrained(str(tmp_path / "plain"))
    done = compressed(tmp_path, SharingRule("a"), RankSelection(rank=4))
    fresh = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    shared = PeftModel.from_pretrained(fresh, str(tmp_path / "shared"), is_trainable=True)
    losses = train(shared, batch, steps=20)
    assert tuned < 0.9 * start and 0.01 < done.relative < 0.9
    assert tuned < losses[0] < 0.5 * (tuned + start), "most of what was learned survives"
    assert losses[-1] < losses[0]
    assert done.plan.num_parameters < done.elements_before


def test_a_result_larger_than_its_source_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain_lora(tmp_path, tie=False)
    done = compressed(tmp_path, SharingRule("a"), ALL)
    assert "larger than the source" in caplog.text and "MORE" in done.table()


def test_the_errors_of_all_sites_are_written(tmp_path: Path) -> None:
    plain_lora(tmp_path, tie=False)
    done = compressed(tmp_path, SharingRule("a"), RankSelection(rank=3))
    report = json.loads((tmp_path / "shared/compression.json").read_text())
    assert report == json.loads(json.dumps(done.to_json()))
    assert [row["site"] for row in report["sites"]] == [entry.site.name for entry in done.plan.entries]
    assert report["elements"] == read_adapter(tmp_path / "shared").plan.num_parameters
    assert done.table().count("self_attn") == 2 and done.table(per_site=True).count("self_attn") == 6


@pytest.mark.parametrize(
    ("sharing", "size", "message"),
    [
        (SharingRule("a"), {"rank": 13}, r"rank 13; the changes of self_attn.q_proj \(3 sites\) have rank 12 together"),
        (SharingRule("none"), {}, "nothing would be shared"),
        (SharingRule("a"), {"rank": 0}, "a rank is 1 or more"),
        (SharingRule("a"), {"energy": 1.5}, "above 0 and at most 1"),
        (SharingRule("a"), {"energy": 0.5, "rank": 2}, "drop one"),
        (SharingRule("a", modules=("k_proj",)), {}, "names 'k_proj', which is not adapted"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, sharing: SharingRule, size: dict[str, Any], message: str) -> None:
    plain_lora(tmp_path, tie=False)
    with pytest.raises(UserError, match=message):
        compressed(tmp_path, sharing, RankSelection(**size))
    assert not (tmp_path / "shared").exists()


def test_sources_of_another_form_are_refused(tmp_path: Path) -> None:
    base, plain, _ = plain_lora(tmp_path, tie=False)
    config = json.loads((plain / "adapter_config.json").read_text())
    rule, out = SharingRule("a"), tmp_path / "out"
    for change, message in (
        ({"peft_type": "IA3"}, "is of type 'IA3'; need plain LORA"),
        ({"lora_bias": True}, "has lora_bias, which is more than A and B: a bias of every layer"),
        ({"init_lora_weights": "pissa"}, "changed the base too"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, "its target_modules name others of the base too"),
    ):
        (plain / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            compress(plain, out, rule, base=base)
    (plain / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(plain / "adapter_model.safetensors")
    adalora = {"base_model.model.model.layers.0.self_attn.q_proj.lora_E": torch.zeros(4, 1)}
    save_file({**weights, **adalora}, tmp_path / "more.safetensors")
    (tmp_path / "more.safetensors").replace(plain / "adapter_model.safetensors")
    with pytest.raises(UserError, match="lora_E; need A, B and magnitudes"):
        compress(plain, out, rule, base=base)
    save_file(weights, plain / "adapter_model.safetensors")
    llama(layers=2).save_pretrained(tmp_path / "shallow")
    with pytest.raises(UserError, match="2 modules are only in the source"):
        compress(plain, out, rule, base=tmp_path / "shallow")
    fresh = get_peft_model(llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    fresh.save_pretrained(str(tmp_path / "untrained"))
    with pytest.raises(UserError, match="changes nothing"):
        compress(tmp_path / "untrained", out, rule, base=base)
    with pytest.raises(UserError, match="exists already"):
        compress(plain, plain, rule, base=base)
    assert not out.exists()


@pytest.mark.parametrize("case", ["lora", "a", "rslora", "ranks", "thirds", "thirds rslora", "dora", "classifier"])
def test_an_adapter_of_this_project_is_a_source_too(tmp_path: Path, case: str) -> None:
    base, adapter, expected = saved(tmp_path, case)
    done = compress(adapter, tmp_path / "shared", SharingRule("b"), ALL, base)
    back = loaded(base, tmp_path / "shared", type(CASES[case][0]()))
    torch.testing.assert_close(logits(back), expected, rtol=1e-4, atol=1e-5)
    before, after = read_adapter(adapter), read_adapter(tmp_path / "shared")
    assert done.elements_before == before.plan.num_parameters
    assert after.config["trained_on"] == before.config["trained_on"] == "fp32"


@pytest.mark.parametrize("case", ["groups", "rslora", "ranks", "tied"])
def test_an_exported_adapter_is_compressed_without_loss_by_its_own_rule(tmp_path: Path, case: str) -> None:
    base, adapter, expected = saved(tmp_path, case)
    export_lora(adapter, tmp_path / "plain")
    settings = CASES[case][1]
    groups = settings.get("share_groups")
    rule = SharingRule(
        settings["share"],
        across=settings.get("share_across", "layers"),
        groups=groups and tuple(map(tuple, groups)),
    )
    done = compress(tmp_path / "plain", tmp_path / "back", rule, ALL, base)
    torch.testing.assert_close(logits(loaded(base, tmp_path / "back")), expected, rtol=1e-4, atol=1e-5)
    assert done.plan.num_parameters == read_adapter(adapter).plan.num_parameters
