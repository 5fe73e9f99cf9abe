"""Every public method of a PEFT model, and functions around it: what they do for LoRA, or a refusal by name."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import DoraCaching, disable_input_dtype_casting, rescale_adapter_scale
from peft.tuners import lora
from peft.tuners.lora import LoraModel
from torch import nn
from toy_models import QV, language_batch, llama, logits, tokens, train

from sharelora import ShareLoraConfig, UserError

SETTINGS = {"r": 4, "lora_alpha": 6, "target_modules": QV, "task_type": "CAUSAL_LM"}
# Rows that count parameters, which sharing makes fewer of.
COUNTS = {"get_nb_trainable_parameters", "print_trainable_parameters", "get_model_status"}


def lora_and_ours(share: str) -> tuple[PeftModel, PeftModel]:
    """LoRA and ShareLoRA with two adapters, whose layers have the same matrices."""
    models = []
    for make in (LoraConfig, lambda **settings: ShareLoraConfig(share=share, **settings)):
        model = get_peft_model(llama(), make(**SETTINGS))
        model.add_adapter("second", make(**{**SETTINGS, "r": 3}))
        models.append(model)
    theirs, ours = models
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name in ("default", "second"):
            for matrix in ours.base_model.bank(name).values():
                matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.2)
            for path in ours.base_model.plans[name].by_path:
                mine, other = (model.base_model.model.get_submodule(path) for model in (ours, theirs))
                for side in ("lora_A", "lora_B"):
                    getattr(other, side)[name].weight.copy_(getattr(mine, side)[name].weight)
    return theirs, ours


def outputs(model: Any) -> torch.Tensor:
    return logits(model, input_ids=tokens())


def trained(model: PeftModel) -> list[str]:
    """Adapters that are trained."""
    named = [name for name, value in model.named_parameters() if value.requires_grad]
    return [adapter for adapter in ("default", "second") if any(f".{adapter}." in f"{name}." for name in named)]


def printed(function: Callable[[], Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        function()
    return out.getvalue()


def added(model: PeftModel, folder: Path) -> Any:
    share = {"share": model.peft_config["default"].share} if hasattr(model.peft_config["default"], "share") else {}
    model.add_adapter("third", type(model.peft_config["default"])(**SETTINGS, **share))
    before = outputs(model), model.active_adapters, trained(model)
    model.set_adapter("third")
    return *before, outputs(model)


def saved(model: PeftModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def loaded(model: PeftModel, folder: Path) -> Any:
    path = saved(model, folder) / "second"
    model.load_adapter(path, "again", is_trainable=True)
    model.set_adapter("again")
    return outputs(model)


def switched(model: Any, *names: str) -> Any:
    """Outputs with each adapter, or several adapters, active."""
    found = []
    for name in (*names, "second", "default"):
        model.set_adapter(name)
        found.append((outputs(model), trained(model)))
    return found


def disabled(model: Any) -> Any:
    with model.disable_adapter():
        inside = outputs(model)
    return inside, outputs(model)


def deleted(model: Any) -> Any:
    model.set_adapter("second")
    model.delete_adapter("default")
    return outputs(model), list(model.peft_config), model.active_adapters


def required(model: Any) -> Any:
    found = []
    for names, value in (("second", True), (["default", "second"], False), ("default", True)):
        model.set_requires_grad(names, value)
        found.append(trained(model))
    return found


def checkpointed(model: PeftModel) -> Any:
    model.prepare_model_for_gradient_checkpointing(model.base_model.model)
    return train(model, language_batch(), 1), model.get_input_embeddings()(tokens()).requires_grad


def status(model: Any, folder: Path) -> Any:
    fields = ("enabled", "active_adapters", "merged_adapters", "available_adapters", "requires_grad", "devices")
    return [(layer.name, *(getattr(layer, field) for field in fields)) for layer in model.get_layer_status()]


def model_status(model: Any, folder: Path) -> Any:
    found = vars(model.get_model_status())
    return {name: value for name, value in found.items() if name not in ("adapter_model_type", "peft_types")}


def merged(model: Any, *names: str) -> Any:
    model.merge_adapter(list(names) or None)
    inside = outputs(model)
    model.unmerge_adapter()
    return inside, outputs(model)


def toggled(model: PeftModel, folder: Path) -> Any:
    model.base_model.disable_adapter_layers()
    inside = outputs(model)
    model.base_model.enable_adapter_layers()
    return inside, outputs(model)


def state_set(model: PeftModel, folder: Path) -> Any:
    state = {name: 2 * value for name, value in peft.get_peft_model_state_dict(model).items()}
    result = peft.set_peft_model_state_dict(model, state)
    return outputs(model), result.unexpected_keys


def base_state_set(model: PeftModel, folder: Path) -> Any:
    state = peft.get_base_model_state_dict(model)
    peft.set_base_model_state_dict(model, {name: 2 * value for name, value in state.items()})
    return state, outputs(model)


def converted(model: PeftModel, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Converting .* that is already a LoRA adapter")
        peft.save_as_lora(folder, model, rank=4)
    again = PeftModel.from_pretrained(llama(), folder)
    assert type(again.base_model) is LoraModel
    return outputs(again)


def rescaled(model: PeftModel, folder: Path) -> Any:
    with rescale_adapter_scale(model, 0.5):
        inside = outputs(model)
    return inside, outputs(model)


def uncast(model: PeftModel, folder: Path) -> Any:
    with disable_input_dtype_casting(model):
        return outputs(model)


def cast(model: PeftModel, folder: Path) -> Any:
    peft.cast_mixed_precision_params(model, torch.bfloat16)
    kinds = {str(value.dtype) for value in model.parameters() if value.requires_grad}
    return kinds, [str(value.dtype) for name, value in model.named_parameters() if "lora_" not in name]


def combined(model: PeftModel, folder: Path) -> Any:
    model.add_weighted_adapter(["default", "second"], [0.5, -2.0], "mix", combination_type="cat")
    model.set_adapter("mix")
    return outputs(model)


def with_cached_dora(model: PeftModel, folder: Path) -> Any:
    with DoraCaching():
        return outputs(model)


def generated(model: PeftModel, folder: Path) -> Any:
    greedy = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 1}
    mixed = model.eval().generate(input_ids=tokens(), adapter_names=["second", "__base__"], **greedy)
    return model.generate(input_ids=tokens(), **greedy), mixed


def carded(model: PeftModel, folder: Path) -> Any:
    folder.mkdir()
    model.create_or_update_model_card(str(folder))
    lines = (folder / "README.md").read_text().splitlines()
    return [line for line in lines if line != "- lora"]


def pushed(model: PeftModel, folder: Path) -> Any:
    """The files that go to a hub, without one."""
    files: list[str] = []

    def upload(work: str, *args: Any, **kwargs: Any) -> None:
        files.extend(sorted(path.name for path in Path(work).iterdir()))

    model._upload_modified_files = upload  # type: ignore[method-assign]
    api = SimpleNamespace(create_repo=lambda repo_id, **kwargs: SimpleNamespace(repo_id=repo_id))
    card = SimpleNamespace(save=lambda path: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.utils.hub.hf_api", lambda: api)
        patch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *args, **kwargs: card)
        model.push_to_hub("somebody/adapter")
    return files


# Name -> what is compared; the folder is empty.
METHODS: dict[str, Callable[[PeftModel, Path], Any]] = {
    "active_adapters": lambda m, f: m.active_adapters,
    "active_peft_config": lambda m, f: m.active_peft_config is m.peft_config["default"],
    "add_adapter": added,
    "add_weighted_adapter": combined,
    "base_model_torch_dtype": lambda m, f: str(m.base_model_torch_dtype),
    "create_or_update_model_card": lambda m, f: (
        f.mkdir(),
        m.create_or_update_model_card(f),
        (f / "README.md").is_file(),
    ),
    "delete_adapter": lambda m, f: deleted(m),
    "disable_adapter": lambda m, f: disabled(m),
    "disable_adapter_layers": toggled,
    "enable_adapter_layers": toggled,
    "from_pretrained": lambda m, f: outputs(PeftModel.from_pretrained(llama(), saved(m, f))),
    "generate": generated,
    "get_base_model": lambda m, f: type(m.get_base_model()).__name__,
    "get_layer_status": status,
    "get_model_config": lambda m, f: m.base_model.get_model_config(m.base_model.model)["model_type"],
    "get_model_status": model_status,
    "get_nb_trainable_parameters": lambda m, f: m.get_nb_trainable_parameters(),
    "has_active_enabled_adapter": lambda m, f: m.has_active_enabled_adapter,
    "inject_adapter": added,
    "load_adapter": loaded,
    "merge_adapter": lambda m, f: (merged(m), merged(m, "default", "second")),
    "merge_and_unload": lambda m, f: outputs(m.merge_and_unload(safe_merge=True, adapter_names=["default", "second"])),
    "modules_to_save": lambda m, f: m.modules_to_save,
    "peft_config": lambda m, f: list(m.peft_config),
    "prefix": lambda m, f: m.base_model.prefix,
    "prepare_inputs_for_generation": generated,
    "prepare_model_for_gradient_checkpointing": lambda m, f: checkpointed(m),
    "print_trainable_parameters": lambda m, f: printed(m.print_trainable_parameters),
    "push_to_hub": pushed,
    "save_pretrained": lambda m, f: sorted(path.relative_to(f).as_posix() for path in saved(m, f).rglob("*")),
    "set_adapter": lambda m, f: (switched(m), switched(m.base_model, ["default", "second"])),
    "set_requires_grad": lambda m, f: (required(m), required(m.base_model)),
    "supports_lora_conversion": lambda m, f: m.supports_lora_conversion(),
    "target_module_mapping": lambda m, f: m.base_model.target_module_mapping["llama"],
    "tuner_layer_cls": lambda m, f: m.base_model.tuner_layer_cls.__name__,
    "unload": lambda m, f: outputs(m.unload()),
    "unmerge_adapter": lambda m, f: merged(m),
}
# Tested elsewhere, by values or by the refusal: in test_peft_places.py, and what prompts alone have.
ELSEWHERE = {"subtract_mutated_init", "get_prompt", "get_prompt_embedding_to_save", "uses_shared_state"}
FUNCTIONS: dict[str, Callable[[PeftModel, Path], Any]] = {
    "cast_mixed_precision_params": cast,
    "disable_input_dtype_casting": uncast,
    "DoraCaching": with_cached_dora,
    "get_base_model_state_dict": base_state_set,
    "get_layer_status": status,
    "get_peft_model_state_dict": state_set,
    "rescale_adapter_scale": rescaled,
    "save_as_lora": converted,
}


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")} - set(dir(nn.Module))


def test_every_public_method_has_a_row() -> None:
    methods = public(peft.PeftModelForCausalLM) | public(LoraModel)
    assert methods == METHODS.keys() | ELSEWHERE, "give a new method of PEFT a row: what it does, or why it is refused"


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            same(found[name], expected[name])
    else:
        assert found == expected


@pytest.mark.parametrize("share", ["none", "a", "ab"])
@pytest.mark.parametrize("name", [*METHODS, *(f"{name}()" for name in FUNCTIONS)])
def test_it_does_what_it_does_for_lora(tmp_path: Path, name: str, share: str) -> None:
    if share != "none" and name in COUNTS:
        pytest.skip("counts differ, as they should")
    row = FUNCTIONS[name[:-2]] if name.endswith("()") else METHODS[name]
    theirs, ours = lora_and_ours(share)
    same(outputs(ours), outputs(theirs))
    same(row(ours, tmp_path / "ours"), row(theirs, tmp_path / "theirs"))


class Registered(lora.Linear):
    """A layer of the caller's, which doubles what the adapter adds."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y = self.base_layer(x)
        return y + 2 * (super().forward(x, *args, **kwargs) - y)


def test_a_class_that_the_caller_registers_comes_first() -> None:
    found = []
    for make in (LoraConfig, lambda **settings: ShareLoraConfig(share="none", **settings)):
        config = make(**SETTINGS, init_lora_weights=False)
        config._register_custom_module({nn.Linear: Registered})
        torch.manual_seed(0)
        model = get_peft_model(llama(), config)
        assert type(model.base_model.model.model.layers[0].self_attn.q_proj) is Registered
        found.append(outputs(model))
    same(*found)
    shared = ShareLoraConfig(share="a", **SETTINGS)
    shared._register_custom_module({nn.Linear: Registered})
    layers = get_peft_model(llama(), shared).base_model.model.model.layers
    assert layers[0].self_attn.q_proj.lora_A["default"].weight is layers[2].self_attn.q_proj.lora_A["default"].weight


def test_inputs_of_another_type_are_not_cast() -> None:
    theirs, ours = lora_and_ours("none")
    for model in (theirs, ours):
        model.bfloat16()
        with disable_input_dtype_casting(model):
            model.found = outputs(model)
    torch.testing.assert_close(ours.found, theirs.found, rtol=0.05, atol=0.05)


def test_these_are_refused_by_name(tmp_path: Path) -> None:
    _, ours = lora_and_ours("a")
    with pytest.raises(ValueError, match=r"does not support PeftType\.SHARELORA because it uses shared state"):
        peft.inject_adapter_in_model(ShareLoraConfig(**SETTINGS), llama())
    with pytest.raises(UserError, match="init_lora_weights='eva' is not supported"):
        ShareLoraConfig(**SETTINGS, init_lora_weights="eva")
    with pytest.raises(ValueError, match=r"eva"):
        peft.initialize_lora_eva_weights(ours, [])
    ours.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="different peft types"):
        peft.create_arrow_model(llama(), [str(tmp_path)], peft.ArrowConfig(top_k=1))
    for model in (ours, lora_and_ours("ab")[1]):
        with pytest.raises(UserError, match="LoftQ computes A and B of each layer for each other"):
            peft.replace_lora_weights_loftq(model)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["share"] == "a"
