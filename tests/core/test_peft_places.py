"""Every place where PEFT, or a library around it, asks whether a method is LoRA, and what ShareLoRA does there."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES
from huggingface_hub import ModelCard
from peft import (
    LoraConfig,
    NoMatchingPeftModuleError,
    PeftMixedModel,
    PeftModel,
    PeftWarning,
    XLoraConfig,
    convert_to_lora,
    get_peft_model,
    set_peft_model_state_dict,
)
from peft.helpers import MontecloraTrainerMixin
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, create_riemannian_optimizer
from peft.tuners import tuners_utils
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.intruders import reduce_intruder_dimension
from safetensors.torch import load_file
from torch import nn
from toy_models import QV, adapted, bank, language_batch, llama, logits, roberta, shake, tokens, train
from transformers import MambaConfig, MambaForCausalLM

from sharelora import ShareLoraConfig, UserError
from sharelora.tuner import doors
from sharelora.tuner.passed_by import BY_KERNELS, OF_MODELS, PASSED_BY
from sharelora.tuner.sites import find_sites

# (file, function that asks) -> what becomes of it.
PLACES = {
    (
        "peft/helpers.py",
        "MontecloraTrainerMixin.compute_loss",
    ): "isinstance holds; a loss of 0: MonteCLoRA is refused",
    ("peft/mapping_func.py", "get_peft_model"): "isinstance holds; it warns of EVA, which the config refuses",
    ("peft/optimizers/lorafa.py", "LoraFAOptimizer.step"): "it needs pairs of A and B: refused by name (doors)",
    ("peft/peft_model.py", "PeftModel.save_pretrained"): "the initial config is reset by the tuner",
    ("peft/peft_model.py", "PeftModel._get_peft_specific_model_tags"): "the same tag, and one of its own (doors)",
    ("peft/tuners/lora/__init__.py", ""): "the registration of LoRA itself",
    ("peft/tuners/lora/config.py", "LoraConfig.__post_init__"): "the config sets its own type afterwards",
    ("peft/tuners/lora/conversion.py", "convert_to_lora"): "a warning that it is LoRA already; ShareLoRA is converted",
    (
        "peft/tuners/lora/intruders.py",
        "reduce_intruder_dimension",
    ): "done where nothing is shared, else refused (doors)",
    ("peft/tuners/lora/model.py", "LoraModel"): "the prefix, inherited",
    ("peft/tuners/mixed/model.py", ""): "refused by name (doors): a bank does not mix",
    ("peft/tuners/mixed/model.py", "MixedModel._create_and_replace"): "not reached: refused before",
    ("peft/tuners/mixed/model.py", "MixedModel._create_new_module"): "not reached: refused before",
    ("peft/tuners/tuners_utils.py", "_check_lora_target_modules_mamba"): "its data (passed_by.OF_MODELS)",
    ("peft/utils/hotswap.py", ""): "the same fields have to agree (doors)",
    ("peft/utils/hotswap.py", "hotswap_adapter_from_state_dict"): "the bank is swapped (doors, swap)",
    ("peft/utils/peft_types.py", "PeftType"): "the name of LoRA itself",
    ("peft/utils/save_and_load.py", "get_peft_model_state_dict"): "shards are warned of by the plan (as_lora)",
    (
        "peft/utils/transformers_weight_conversion.py",
        "convert_peft_config_for_transformers",
    ): "done as for LoRA (experts)",
    (
        "peft/utils/transformers_weight_conversion.py",
        "convert_peft_adapter_state_dict_for_transformers",
    ): "left: no older file of ours has experts, and a plan knows its model",
    ("transformers/integrations/peft.py", "PeftAdapterMixin.load_adapter"): "not reached: it injects without a bank",
}
# Methods of their own, whose type no adapter of ours has.
OTHERS = ("peft/tuners/adalora/", "peft/tuners/glora/")
WORDS = ("LORA", "lora", "lora_")
CLASSES = {"LoraConfig", "LoraModel"}


def leaf(node: ast.AST) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def asks(node: ast.AST) -> bool:
    """Whether an expression tells LoRA from other methods: by its type, its name, its prefix or its classes."""
    if isinstance(node, ast.Constant):
        return node.value in WORDS
    if isinstance(node, ast.Call) and leaf(node.func) in ("isinstance", "issubclass"):
        return any(leaf(part) in CLASSES for part in ast.walk(node.args[1]))
    if isinstance(node, ast.Compare):
        return any(leaf(part) in CLASSES for part in ast.walk(node))
    return isinstance(node, ast.Attribute) and node.attr == "LORA"


def places(source: str) -> Iterator[str]:
    """The qualified name of every function or class that asks; empty for a module's own code."""

    def walk(node: ast.AST, names: tuple[str, ...]) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = (*names, child.name) if named else names
            if asks(child):
                yield ".".join(inner)
            yield from walk(child, inner)

    return walk(ast.parse(source), ())


@pytest.mark.slow  # it reads all sources of three libraries
def test_every_place_that_asks_for_lora_is_known() -> None:
    found = set()
    for package in ("peft", "transformers", "accelerate"):
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        root = Path(spec.origin).parent
        for file in root.rglob("*.py"):
            text = file.read_text("utf-8")
            if package == "peft" or "peft" in text:
                name = file.relative_to(root.parent).as_posix()
                found |= {(name, place) for place in places(text) if not name.startswith(OTHERS)}
    assert found == set(PLACES), "say in PLACES what ShareLoRA does there, and test it"


@pytest.mark.parametrize(
    "line",
    [
        "    return config.peft_type == PeftType.LORA",
        "    return config.peft_type in {'LORA'}",
        "    return isinstance(config, (lora.LoraConfig, int))",
        "    return type(config) is LoraConfig",
        "    return name.startswith('lora_')",
    ],
)
def test_a_new_place_would_be_found(line: str) -> None:
    assert list(places(f"class C:\n  def f(config, name):\n{line}")) == ["C.f"]


def test_what_a_model_passes_by_is_refused_as_for_lora() -> None:
    base = MambaForCausalLM(MambaConfig(vocab_size=48, hidden_size=32, num_hidden_layers=2))
    before = logits(base)
    for targets, name in ((["in_proj", "out_proj"], "out_proj"), (r".*\.(in_proj|dt_proj)", "dt_proj")):
        for adapt in (lambda t: adapted(base, target_modules=t), lambda t: find_sites(base, t)):
            with pytest.raises(UserError, match=f"{name} of a mamba model cannot be adapted") as error:
                adapt(targets)
            assert "\n" not in str(error.value) and torch.equal(logits(base), before)
    adapted(base, target_modules=["in_proj", "x_proj"])


MIXERS = {
    "mamba": (lambda: MambaForCausalLM(MambaConfig(vocab_size=48, hidden_size=32, num_hidden_layers=2)), {"in_proj"}),
    "jamba": (FAMILIES["jamba"], {"dt_proj"}),
}


@pytest.mark.parametrize("family", MIXERS)
def test_all_leaves_out_what_a_model_passes_by_and_every_other_module_learns(family: str) -> None:
    make, names = MIXERS[family]
    torch.manual_seed(0)
    base: Any = make()
    with pytest.warns(PeftWarning, match="all linear layers but .*dt_proj.* are adapted"):
        model = shake(adapted(base, target_modules="all-linear", share="none"))
    found = {path.rpartition(".")[2] for path in model.base_model.plans["default"].by_path}
    assert found == names if family == "mamba" else not found & names and "in_proj" in found
    with pytest.warns(PeftWarning, match="all linear layers but"):
        assert {site.path for site in find_sites(make())} == set(model.base_model.plans["default"].by_path)
    if family == "mamba":  # of experts, some may have no token
        ids = torch.arange(12).view(2, 6)
        model(input_ids=ids, labels=ids).loss.backward()
        assert all(matrix.grad is not None and matrix.grad.any() for matrix in bank(model).values())


def test_modules_that_are_passed_by_are_as_the_models_have_them() -> None:
    """Every class of the tables is one of transformers' and makes modules of these names."""
    text = {file: file.read_text() for file in (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")}
    for holder, held in [*PASSED_BY.items(), *BY_KERNELS.items()]:
        source = next((content for content in text.values() if f"class {holder}(" in content), "")
        body = source.partition(f"class {holder}(")[2].partition("\nclass ")[0]
        assert all(f"self.{name} = nn." in body and f"self.{name}.weight" in body for name in held), holder


def test_models_in_which_peft_refuses_modules_are_known() -> None:
    rule = inspect.getsource(tuners_utils._check_lora_target_modules_mamba)
    for name, found in (("mamba_model_types", set(OF_MODELS)), ("incompatible_modules", set(*set(OF_MODELS.values())))):
        (text,) = re.findall(rf"{name} = (\{{.*\}})", rule)
        assert ast.literal_eval(text) == found


def test_shards_that_nobody_gathered_are_warned_of(tmp_path: Path) -> None:
    model = adapted(llama(), share="a")
    model.save_pretrained(tmp_path / "whole")
    for name in ("lora_A/self_attn/q_proj/*/4x32", "lora_B/self_attn/q_proj/1/32x4"):
        # As ZeRO-3 leaves a parameter, and FSDP a part of one.
        matrix = bank(model)[name]
        matrix.data = matrix.data[:2] if name.startswith("lora_B") else matrix.data.new_empty(0)
    with pytest.warns(PeftWarning, match=r"saved with 2 of 8 matrices in other shapes than its plan has, first lora_A"):
        model.save_pretrained(tmp_path / "shards")
    with pytest.raises(UserError, match="does not hold the matrices of its plan"):
        PeftModel.from_pretrained(llama(), tmp_path / "shards")


@pytest.mark.parametrize(
    ("share", "init", "more"),
    [
        ("none", "pissa", {}),
        ("none", "olora", {"use_rslora": True}),
        ("none", "pissa", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
        ("ab", True, {}),
        ("none", True, {"share_plan": {"sites": [{"path": "*", "a": "{kind}", "b": "{kind}/{layer}", "r": 3}]}}),
    ],
)
def test_a_fitted_adapter_is_saved_as_a_difference(tmp_path: Path, share: str, init: Any, more: dict[str, Any]) -> None:
    model = adapted(llama(), share=share, init_lora_weights=init, **more)
    # As PEFT's guide has it: the initial adapter is saved as one that is drawn.
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "initial")
    model.peft_config["default"].init_lora_weights = init
    train(model, language_batch(), 3)
    expected = logits(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PiSSA changes|OLoRA changes")
        model.save_pretrained(
            tmp_path / "difference", path_initial_model_for_weight_conversion=str(tmp_path / "initial")
        )
    assert torch.equal(logits(model), expected) and list(model.peft_config) == ["default"]
    again = PeftModel.from_pretrained(llama(), tmp_path / "difference")
    torch.testing.assert_close(logits(again), expected, rtol=1e-4, atol=1e-5)
    mine, saved = (m.base_model.plans["default"] for m in (model, again))
    assert [e.r for e in saved.entries] == [2 * e.r for e in mine.entries] and len(saved.users) == len(mine.users)


def test_a_difference_keeps_heads_and_refuses_dora(tmp_path: Path) -> None:
    model = adapted(roberta(), target_modules=["query", "value"], share="a", task_type="SEQ_CLS")
    model.save_pretrained(tmp_path / "initial")
    shake(model)
    shake(model, part="modules_to_save.default")
    expected = logits(model, input_ids=tokens(4))
    path = {"path_initial_model_for_weight_conversion": str(tmp_path / "initial")}
    # PEFT loads the initial adapter beside the other one, whose name it finds in that of the head.
    model.save_pretrained(tmp_path / "difference", **path)
    again = PeftModel.from_pretrained(roberta(), tmp_path / "difference")
    torch.testing.assert_close(logits(again, input_ids=tokens(4)), expected, rtol=1e-4, atol=1e-5)
    model = adapted(llama(), share="a", use_dora=True)
    model.save_pretrained(tmp_path / "initial")
    with pytest.raises(UserError, match="the difference of two DoRA adapters is no adapter"):
        model.save_pretrained(tmp_path / "difference", **path)


def test_a_pickle_is_refused_when_saving_and_nothing_is_written(tmp_path: Path) -> None:
    model = adapted(llama(), share="a")
    before = model.peft_config["default"].to_dict()
    for call in (
        lambda: model.save_pretrained(tmp_path / "a", safe_serialization=False),
        lambda: model.save_pretrained(tmp_path / "a", False),
    ):
        with pytest.raises(UserError, match=r"safe_serialization=False would write adapter_model\.bin, a pickle"):
            call()
    assert not (tmp_path / "a").exists() and model.peft_config["default"].to_dict() == before
    model.save_pretrained(tmp_path / "a", True)
    assert load_file(tmp_path / "a" / "adapter_model.safetensors").keys() == {
        f"base_model.lora_bank.{name}" for name in bank(model)
    }
    lora = get_peft_model(llama(), LoraConfig(r=2, target_modules=QV))
    lora.save_pretrained(tmp_path / "lora", safe_serialization=False)
    assert (tmp_path / "lora" / "adapter_model.bin").is_file()


def test_lorafa_is_refused_and_freezes_nothing() -> None:
    model = adapted(llama(), share="a")
    with pytest.raises(UserError, match="LoRA-FA needs an A and a B of its own for every layer"):
        create_lorafa_optimizer(model, r=4, lora_alpha=8, lr=1e-3)
    assert all(matrix.requires_grad for matrix in bank(model).values())
    lora = get_peft_model(llama(), LoraConfig(r=4, target_modules=QV))
    optimizer = create_lorafa_optimizer(lora, r=4, lora_alpha=8, lr=1e-3)
    lora(**language_batch()).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("share", ["none", "a", "ab"])
def test_it_is_converted_to_lora(tmp_path: Path, share: str) -> None:
    model = shake(adapted(llama(), share=share))
    expected = logits(model)
    config, tensors = convert_to_lora(model, rank=4)
    assert config.peft_type == "LORA" and not any("lora_bank" in name for name in tensors)
    lora = get_peft_model(llama(), config)
    set_peft_model_state_dict(lora, tensors)
    torch.testing.assert_close(logits(lora), expected, rtol=1e-4, atol=1e-5)


def twins(**settings: Any) -> tuple[PeftModel, PeftModel]:
    """A model that shares nothing, and PEFT's LoRA with the same matrices."""
    ours = shake(adapted(llama(), share="none", **settings))
    lora = get_peft_model(llama(), LoraConfig(**{"r": 4, "target_modules": QV, **settings}))
    layers = dict(ours.named_modules())
    for path, layer in lora.named_modules():
        if isinstance(layer, LoraLayer):
            for side in ("lora_A", "lora_B"):
                for name, matrix in getattr(layer, side).items():
                    matrix.weight.data.copy_(getattr(layers[path], side)[name].weight)
            for side in ("lora_embedding_A", "lora_embedding_B"):
                for name, matrix in getattr(layer, side).items():
                    matrix.data.copy_(getattr(layers[path], side)[name])
    torch.testing.assert_close(logits(ours), logits(lora))
    return ours, lora


def test_intruder_dimensions_are_reduced_as_for_lora() -> None:
    ours, lora = twins(lora_alpha=8)
    before = logits(ours)
    for model in (ours, lora):
        reduce_intruder_dimension(model, new_adapter_name="less", threshold_epsilon=0.99, logging_sink=None)
    assert ours.active_adapters == ["less"] and (logits(ours) - before).abs().max() > 1e-3
    torch.testing.assert_close(logits(ours), logits(lora), rtol=1e-4, atol=1e-4)
    ours.set_adapter("default")
    torch.testing.assert_close(logits(ours), before)


def test_intruder_dimensions_of_embeddings_are_refused_for_lora_breaks_there() -> None:
    ours, lora = twins(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"])
    reduce_intruder_dimension(lora, new_adapter_name="less", threshold_epsilon=0.99, logging_sink=None)
    with pytest.raises((IndexError, RuntimeError)):
        logits(lora)
    with pytest.raises(UserError, match=r"does not go with model\.embed_tokens: PEFT gives A and B of an embedding"):
        reduce_intruder_dimension(ours, new_adapter_name="less")
    assert list(ours.peft_config) == ["default"]


def test_intruder_dimensions_of_shared_matrices_are_refused() -> None:
    model = adapted(llama(), share="a")
    with pytest.raises(UserError, match="reduce_intruder_dimension computes A and B of each layer for each other"):
        reduce_intruder_dimension(model, old_adapter_name="default", new_adapter_name="less")
    assert list(model.peft_config) == ["default"]


def test_adapters_of_different_types_are_refused(tmp_path: Path) -> None:
    message = "PeftMixedModel does not go with ShareLoRA: it makes layers without the tuner that owns the bank"
    with pytest.raises(UserError, match=message):
        get_peft_model(llama(), ShareLoraConfig(r=2, target_modules=QV), mixed=True)
    mixed = get_peft_model(llama(), LoraConfig(r=2, target_modules=QV), mixed=True)
    with pytest.raises(UserError, match=message):
        mixed.add_adapter("other", ShareLoraConfig(r=2, target_modules=QV))
    adapted(llama(), share="a").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        PeftMixedModel.from_pretrained(llama(), tmp_path)


def test_x_lora_refuses_an_adapter_with_a_bank(tmp_path: Path) -> None:
    adapted(llama(), share="a").save_pretrained(tmp_path)
    base = llama(use_cache=False)
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=base.config.hidden_size, adapters={"one": str(tmp_path)})
    with pytest.raises(UserError, match=r"X-LoRA does not go with ShareLoRA: .* has a bank"):
        get_peft_model(base, config)


def test_riemannian_preconditioning_is_that_of_lora() -> None:
    ours, lora = twins(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"])
    for model in (ours, lora):
        optimizer = create_riemannian_optimizer(model, torch.optim.SGD, lr=0.5)
        for _ in range(2):
            optimizer.zero_grad()
            model(**language_batch()).loss.backward()
            optimizer.step()
    before = logits(twins(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"])[1])
    assert (logits(lora) - before).abs().max() > 1e-3
    torch.testing.assert_close(logits(ours), logits(lora), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_modules": ["qq"]}, r"Target modules .* not found in the base model"),
        ({"target_modules": ["qq"], "modules_to_save": ["lm_head"]}, "No modules were targeted for adaptation"),
        ({"target_modules": [], "target_parameters": ["qq"]}, "No `target_modules` passed but also no `target_par"),
        ({"target_modules": QV, "exclude_modules": QV}, "No modules were targeted for adaptation"),
    ],
)
def test_no_module_is_the_error_of_peft_too_in_its_words(settings: dict[str, Any], words: str) -> None:
    model = adapted(llama(), share="none")
    for config in (LoraConfig(r=2, **settings), ShareLoraConfig(r=2, **settings)):
        with pytest.raises(NoMatchingPeftModuleError, match=words) as error:
            get_peft_model(llama(), config)
    with pytest.raises(UserError, match=words):
        model.add_adapter("other", ShareLoraConfig(r=2, **settings))
    assert isinstance(error.value, UserError) and "\n" not in str(error.value)
    assert ("All modules were excluded" in str(error.value)) == ("exclude_modules" in settings)
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize("share", ["a", "b", "ab"])
def test_riemannian_preconditioning_of_shared_matrices_is_refused(share: str) -> None:
    model = adapted(llama(), share=share)
    with pytest.raises(UserError, match=r"shares matrices, and Riemannian preconditioning .* needs one B for every A"):
        create_riemannian_optimizer(model, torch.optim.SGD, lr=0.5)


@pytest.mark.parametrize("share", ["none", "ab"])
def test_lora_plus_has_a_rate_for_embeddings(share: str) -> None:
    model = adapted(llama(), share=share, target_modules=["q_proj", "embed_tokens"])
    optimizer = create_loraplus_optimizer(
        model, torch.optim.SGD, lr=0.1, loraplus_lr_ratio=4.0, loraplus_lr_embedding=0.001
    )
    rates = {id(matrix): group["lr"] for group in optimizer.param_groups for matrix in group["params"]}
    found = {name: rates[id(matrix)] for name, matrix in bank(model).items()}
    expected = {n: 0.001 if "embed_tokens" in n else 0.4 if n.startswith("lora_B") else 0.1 for n in bank(model)}
    assert found == expected and set(expected.values()) == {0.001, 0.4, 0.1}


def test_the_loss_of_monteclora_is_none(tmp_path: Path) -> None:
    class Plain:
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            return model(**inputs).loss

    class Trainer(MontecloraTrainerMixin, Plain):
        pass

    model = adapted(llama(), share="a")
    assert torch.equal(Trainer().compute_loss(model, language_batch()), model(**language_batch()).loss)


@pytest.mark.parametrize("base", [llama, nn.Sequential])
def test_the_card_has_the_tags_of_lora_and_its_own(tmp_path: Path, base: Any) -> None:
    def tags(config: LoraConfig) -> list[str]:
        made = base() if base is llama else base(nn.Linear(4, 4), nn.Linear(4, 4))
        get_peft_model(made, config).save_pretrained(tmp_path / type(config).__name__)
        found: list[str] = ModelCard.load(tmp_path / type(config).__name__ / "README.md").data.tags
        return found

    theirs = tags(LoraConfig(target_modules="all-linear"))
    assert tags(ShareLoraConfig(target_modules="all-linear", share="none")) == sorted([*theirs, "sharelora"])
    config = json.loads((tmp_path / "ShareLoraConfig" / "adapter_config.json").read_text())
    assert config["peft_type"] == "SHARELORA"


def test_functions_that_users_import_by_name_are_replaced_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def original(x: int) -> int:
        """Its words."""
        return x + 1

    earlier = ModuleType("earlier")
    earlier.one, earlier.other, earlier.different = original, original, len  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "earlier", earlier)
    doors._stand_everywhere(original, lambda found, x: 10 * found(x))
    assert earlier.one(1) == earlier.other(1) == 20 and earlier.different is len and original(1) == 2
    assert earlier.one.__doc__ == "Its words."
