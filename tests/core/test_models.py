"""Loading: what is whole loads, what is not is refused at once and in one line."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sharelora.models import load as models
from sharelora.models.adapter import load_adapter
from sharelora.models.load import load_base, load_tokenizer
from sharelora.support import hub
from sharelora.support.errors import UserError
from sharelora.tuner import quantization


def llama(layers: int = 2, hidden: int = 32) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def tokenizer(*special: str) -> PreTrainedTokenizerFast:
    words = {word: index for index, word in enumerate(["<s>", "</s>", *special, "a", "b", "<unk0>"])}
    made = Tokenizer(WordLevel(words, unk_token="<unk0>"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    llama().save_pretrained(path)
    tokenizer("<pad>").save_pretrained(path)
    return path


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    model = get_peft_model(load_base(str(folder), dtype="fp32"), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """The hub is thought to be online, but nothing can be connected to; gives the list of attempts."""
    tried: list[object] = []

    def refuse(address: object, timeout: float | None = None) -> None:
        tried.append(address)
        raise OSError("no route")

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    yield tried


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("dtype", "bits", "found"),
    [
        ("fp32", 16, torch.float32),
        ("bf16", 16, torch.bfloat16),
        ("auto", 16, torch.float32),
        ("auto", 32, torch.float32),
    ],
)
def test_a_folder_loads_in_the_asked_precision(folder: Path, dtype: str, bits: int, found: torch.dtype) -> None:
    model = load_base(str(folder), bits=bits, dtype=dtype)
    assert {value.dtype for value in model.parameters()} == {found}
    assert not model.training


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_protected(folder: Path, bits: int) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    model = load_base(str(folder), bits=bits, dtype="fp32")
    kind = {4: bnb.nn.Linear4bit, 8: bnb.nn.Linear8bitLt}[bits]
    layers = [module for module in model.modules() if isinstance(module, kind)]
    assert len(layers) == 14
    assert not any(getattr(layer, "support_avx512bf16_for_cpu", False) for layer in layers)


def test_evaluating_leaves_4bit_weights_alone(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = load_base(str(folder), bits=4, dtype="fp32")
    weight = model.model.layers[0].self_attn.q_proj.weight
    before = weight.data.clone()
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert weight.data.shape == before.shape and torch.equal(weight.data, before)


def test_a_missing_hub_model_fails_at_once(no_network: list[object]) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=r"model some/model not found: .*hub cannot be reached; set MODEL=.*--tiny"):
        load_base("some/model")
    assert len(no_network) == 1 and time.monotonic() - start < 2


def test_offline_mode_does_not_even_try(no_network: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    for load in (load_base, load_tokenizer):
        with pytest.raises(UserError, match="cannot be reached"):
            load("some/model")
    assert no_network == []


def test_a_slow_name_lookup_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def stuck(address: object, timeout: float | None = None) -> None:
        release.wait(10)
        raise OSError("no answer")

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", stuck)
    start = time.monotonic()
    assert hub.hub_reachable(seconds=0.1) is False
    assert time.monotonic() - start < 5
    release.set()


def test_a_missing_folder_is_not_taken_for_a_hub_name(no_network: list[object]) -> None:
    with pytest.raises(UserError, match="no such folder") as caught:
        load_base("/nowhere/at/all")
    assert "hub" not in one_line(caught) and no_network == []


def cached(folder: Path, cache: Path) -> None:
    """Lay a folder out as the hub's cache does."""
    repository = cache / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    shutil.copytree(folder, repository / "snapshots" / "abc")


def test_a_complete_cached_copy_needs_no_network(folder: Path, tmp_path: Path, no_network: list[object]) -> None:
    cached(folder, tmp_path / "cache")
    model = load_base("some/model", cache_dir=str(tmp_path / "cache"))
    assert model.config.num_hidden_layers == 2
    assert load_tokenizer("some/model", cache_dir=str(tmp_path / "cache")).pad_token == "<pad>"
    assert no_network == []


def test_an_incomplete_cached_copy_is_not_used(folder: Path, tmp_path: Path, no_network: list[object]) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").touch()
    cached(folder, tmp_path / "cache")
    with pytest.raises(UserError, match="cannot be reached"):
        load_base("some/model", cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="every shard"):
        load_base(str(folder))


def test_pickled_weights_are_refused(folder: Path, adapter: Path) -> None:
    base = load_base(str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickled weights .* need model\.safetensors"):
        load_base(str(folder))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UserError, match=r"pickled weights .* need adapter_model\.safetensors"):
        load_adapter(base, adapter)


def test_damaged_models_are_user_errors(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load_base(str(folder))
    one_line(caught)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError):
        load_base(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        load_base(str(folder))


def test_weights_of_a_smaller_model_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match="lacks 9 weights"):
        load_base(str(folder))


def test_an_adapter_is_no_model(adapter: Path) -> None:
    with pytest.raises(UserError, match="--adapter"):
        load_base(str(adapter))


def test_quantising_needs_bitsandbytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "has_bitsandbytes", lambda: False)
    with pytest.raises(UserError, match=r"pip install bitsandbytes"):
        load_base(str(folder), bits=4)


@pytest.mark.parametrize("options", [{"bits": 3}, {"dtype": "fp64"}, {"bits": 4, "quant_type": "int4"}])
def test_unknown_precisions_are_refused(folder: Path, options: dict[str, object]) -> None:
    with pytest.raises(UserError, match="need"):
        load_base(str(folder), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("special", "pad"), [(("<pad>",), "<pad>"), (("<unk>",), "<unk>"), ((), "</s>")])
def test_padding_uses_a_token_that_exists(tmp_path: Path, special: tuple[str, ...], pad: str) -> None:
    tokenizer(*special).save_pretrained(tmp_path)
    plain = len(tokenizer(*special))
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token == pad and len(loaded) == plain
    assert loaded.unk_token is None


def test_an_adapter_comes_back(folder: Path, adapter: Path) -> None:
    ids = torch.tensor([[3, 4, 5]])
    base = load_base(str(folder), dtype="fp32")
    with torch.no_grad():
        plain = base(ids).logits
        model = load_adapter(base, adapter)
        adapted = model(ids).logits
    assert isinstance(model, PeftModel) and not torch.allclose(plain, adapted)
    assert not any(value.requires_grad for value in model.parameters())


def test_an_adapter_can_be_trained_on(folder: Path, adapter: Path) -> None:
    model = load_adapter(load_base(str(folder)), adapter, trainable=True)
    assert all(("lora_" in name) == value.requires_grad for name, value in model.named_parameters())


@pytest.mark.parametrize(("layers", "hidden"), [(1, 32), (3, 32), (2, 16)])
def test_an_adapter_of_another_model_is_refused(tmp_path: Path, adapter: Path, layers: int, hidden: int) -> None:
    llama(layers, hidden).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="does not fit this model") as caught:
        load_adapter(load_base(str(tmp_path / "other")), adapter)
    one_line(caught)


def test_bad_adapter_folders(folder: Path, adapter: Path, tmp_path: Path) -> None:
    base = load_base(str(folder))
    with pytest.raises(UserError, match="no such folder"):
        load_adapter(base, tmp_path / "nothing")
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(UserError, match="name one of these"):
        load_adapter(base, tmp_path / "run")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load_adapter(base, adapter)
    weights.unlink()
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        load_adapter(base, adapter)


def test_the_guard_counts_layers(folder: Path) -> None:
    assert quantization.protect_4bit(load_base(str(folder))) == 0


@pytest.mark.parametrize("words", [{"<unk>": 0}, {"<unk>": 0, "</s>": 1}, {"<unk>": 0, "only": 1}])
def test_a_tokenizer_to_which_all_texts_are_the_same_is_refused(tmp_path: Path, words: dict[str, int]) -> None:
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    special = {name: word for name, word in (("unk_token", "<unk>"), ("eos_token", "</s>")) if word in words}
    PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"knows [01] words besides special tokens; need one that tells texts apart"):
        load_tokenizer(str(tmp_path))
