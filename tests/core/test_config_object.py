"""The configuration is the caller's own object: PEFT writes into it, and it serves for more than one model."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from toy_models import QV, adapted, language_batch, llama, logits, shake, tokens, train
from transformers import RobertaConfig, RobertaForQuestionAnswering, RobertaForTokenClassification

from sharelora import ShareLoraConfig, UserError


def config(**settings: Any) -> ShareLoraConfig:
    return ShareLoraConfig(**{"r": 4, "target_modules": QV, **settings})


def saved_plan(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())["plan"]


def encoder(kind: type) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return kind(RobertaConfig(vocab_size=48, max_position_embeddings=64, **sizes, **dropout))


def test_the_model_has_the_object_of_the_caller_and_fills_it_in_as_lora() -> None:
    ours, theirs = ShareLoraConfig(r=4), LoraConfig(r=4)
    model = get_peft_model(llama(), ours)
    get_peft_model(llama(), theirs)
    assert model.peft_config["default"] is ours
    assert ours.target_modules == theirs.target_modules == {"q_proj", "v_proj"}
    everything = ShareLoraConfig(r=4, target_modules="all-linear", share="b")
    get_peft_model(llama(), everything)
    assert everything.target_modules == {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}


@pytest.mark.parametrize(
    ("task", "kind", "head"),
    [
        ("TOKEN_CLS", RobertaForTokenClassification, "classifier"),
        ("QUESTION_ANS", RobertaForQuestionAnswering, "qa_outputs"),
    ],
)
def test_the_head_of_a_task_is_trained_saved_and_loaded(tmp_path: Path, task: str, kind: type, head: str) -> None:
    settings = {"task_type": task, "target_modules": ["query", "value"]}
    ours = config(**settings)
    model = get_peft_model(encoder(kind), ours)
    theirs = LoraConfig(r=4, **settings)
    get_peft_model(encoder(kind), theirs)
    assert ours.modules_to_save == theirs.modules_to_save and head in ours.modules_to_save
    shake(model)
    labels = {"labels": tokens() % 2}
    if task == "QUESTION_ANS":
        labels = {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    losses = train(model, {"input_ids": tokens(), **labels}, 4)
    assert losses[-1] < losses[0]
    weight = getattr(model.base_model.model, head).modules_to_save["default"].weight
    assert not torch.equal(weight, getattr(encoder(kind), head).weight)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(encoder(kind), tmp_path)
    with torch.no_grad():
        expected, found = (m.eval()(input_ids=tokens()) for m in (model, again))
    for name in ("logits", "start_logits"):
        if name in expected:
            assert torch.equal(found[name], expected[name])


def test_one_object_makes_adapters_of_two_models(tmp_path: Path) -> None:
    shared = config(share="a")
    models = {layers: shake(get_peft_model(llama(layers), shared)) for layers in (3, 2)}
    assert models[3].peft_config["default"] is models[2].peft_config["default"] is shared
    assert shared.plan == models[2].base_model.plans["default"].to_json()
    for layers, model in models.items():
        folder = tmp_path / str(layers)
        model.save_pretrained(folder)
        assert saved_plan(folder) == model.base_model.plans["default"].to_json()
        again = PeftModel.from_pretrained(llama(layers), folder)
        assert torch.equal(logits(again), logits(model))
    assert saved_plan(tmp_path / "3") != saved_plan(tmp_path / "2")


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        dataclasses.replace,
        lambda used: ShareLoraConfig(**{k: v for k, v in used.to_dict().items() if k != "peft_type"}),
    ],
)
def test_a_copy_of_a_used_configuration_serves_for_another_model(
    copied: Callable[[ShareLoraConfig], ShareLoraConfig],
) -> None:
    used = config(share="b")
    get_peft_model(llama(3), used)
    model = get_peft_model(llama(2), copied(used))
    assert (
        model.base_model.plans["default"].users.keys()
        == adapted(llama(2), share="b").base_model.plans["default"].users.keys()
    )


def test_one_object_makes_two_adapters_of_one_model(tmp_path: Path) -> None:
    shared = config(share="a")
    model = get_peft_model(llama(), shared)
    model.add_adapter("second", shared)
    shake(model)
    assert model.base_model.plans["default"].hash == model.base_model.plans["second"].hash
    expected = {}
    for name in ("default", "second"):
        model.set_adapter(name)
        expected[name] = logits(model)
    assert not torch.equal(expected["default"], expected["second"])
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), tmp_path)), expected["default"])
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), tmp_path / "second")), expected["second"])
    model.delete_adapter("default")
    assert torch.equal(logits(model), expected["second"])


def test_one_object_adapts_a_model_again_after_unload() -> None:
    shared = config(share="ab")
    model = get_peft_model(llama(), shared)
    first = train(model, language_batch(), 2)[0]
    again = get_peft_model(model.unload(), shared)
    assert train(again, language_batch(), 2)[0] == pytest.approx(first)


def test_a_field_that_an_old_file_lacks_is_off(tmp_path: Path) -> None:
    config(share_dropout_mask=True).save_pretrained(str(tmp_path))
    assert ShareLoraConfig.from_pretrained(str(tmp_path)).share_dropout_mask is True
    file = tmp_path / "adapter_config.json"
    written = json.loads(file.read_text())
    del written["share_dropout_mask"]
    file.write_text(json.dumps(written))
    assert ShareLoraConfig.from_pretrained(str(tmp_path)).share_dropout_mask is False


def test_a_configuration_from_a_file_still_has_to_fit(tmp_path: Path) -> None:
    shake(adapted(llama(3), share="a")).save_pretrained(tmp_path)
    loaded = ShareLoraConfig.from_pretrained(tmp_path)
    for _ in range(2):
        PeftModel.from_pretrained(llama(3), tmp_path, config=loaded)
        with pytest.raises(UserError, match="made for another model"):
            get_peft_model(llama(2), loaded)
        with pytest.raises(UserError, match="made for another model"):
            PeftModel.from_pretrained(llama(2), tmp_path, config=copy.deepcopy(loaded))


def test_a_refused_configuration_is_as_it_was() -> None:
    for settings in ({"share_groups": [[0, 9]]}, {"target_modules": ["q_proj", "nothing"]}):
        refused = config(**settings)
        before = copy.deepcopy(refused.to_dict())
        with pytest.raises(UserError):
            get_peft_model(llama(), refused)
        assert refused.to_dict() == before


def test_the_precision_of_the_base_is_that_of_each_model(tmp_path: Path) -> None:
    shared = config()
    models = {"bf16": get_peft_model(llama().bfloat16(), shared), "fp32": get_peft_model(llama(), shared)}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        assert json.loads((tmp_path / name / "adapter_config.json").read_text())["trained_on"] == name
    given = config(trained_on="nf4")
    get_peft_model(llama(), given)
    assert given.trained_on == "nf4"
