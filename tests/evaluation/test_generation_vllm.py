"""The engine vllm, whose module a stand-in replaces: what it is asked for, and what becomes of its answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from toy import make_model, make_tokenizer

from sharelora import ShareLoraConfig
from sharelora.evaluation.generation.engine import TextStore, keys
from sharelora.evaluation.generation.sampling import seed_of
from sharelora.evaluation.generation.settings import GenerationSettings, Prompt, encode
from sharelora.evaluation.generation.vllm import VllmModel, generate_with_vllm, require_vllm
from sharelora.support.errors import UserError

PROMPTS = [Prompt("Which ", word, name) for word, name in (("fox", "a"), ("wolf", "b"), ("hat", ""))]
ENCODED = encode(make_tokenizer(), PROMPTS)
DRAWN = GenerationSettings(7, temperature=0.5, top_p=0.9, stop=("\n",), seed=2, samples=2)
ENDS = [("length", None), ("stop", None), ("stop", 2), ("stop", "\n")]


class Stub(ModuleType):
    """Takes what vLLM takes, and notes it."""

    def __init__(self) -> None:
        super().__init__("vllm")
        self.loaded: dict[str, Any] = {}
        self.asked: list[Any] = []
        self.adapter: dict[str, Any] = {}
        self.SamplingParams = lambda **options: SimpleNamespace(**options)
        self.LLM = self._load

    def _load(self, **options: Any) -> Any:
        self.loaded = options
        return SimpleNamespace(generate=self._generate)

    def _generate(self, prompts: list[Any], params: list[Any], lora_request: Any, use_tqdm: bool) -> list[Any]:
        if lora_request is not None:
            self.adapter = json.loads((Path(lora_request.path) / "adapter_config.json").read_text())
        found = []
        for place, (prompt, param) in enumerate(zip(prompts, params, strict=True), len(self.asked)):
            self.asked.append((prompt["prompt_token_ids"], param))
            reason, stop = ENDS[place % 4]
            text = SimpleNamespace(text=f"text {place}", token_ids=[5] * place, finish_reason=reason, stop_reason=stop)
            found.append(SimpleNamespace(outputs=[text]))
        return found


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made, lora, request = Stub(), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    request.LoRARequest = lambda name, number, path: SimpleNamespace(name=name, path=path)  # type: ignore[attr-defined]
    made.lora, lora.request = lora, request  # type: ignore[attr-defined]
    for name, module in (("vllm", made), ("vllm.lora", lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, module)
    return made


def run(folder: Path, adapter: Path | None = None, **changes: Any) -> tuple[TextStore, list[tuple[int, int, int]]]:
    settings = changes.get("settings", DRAWN)
    store, seen = TextStore(folder / "out", {}), []
    model = VllmModel("the/base", adapter, "bf16", 96)
    names = [prompt.name for prompt in PROMPTS]
    asked = keys(len(PROMPTS), settings)
    generate_with_vllm(model, ENCODED, names, settings, asked, store, lambda *values: seen.append(values))
    return store, seen


def test_every_text_is_asked_for_with_its_own_seed(stub: Stub, tmp_path: Path) -> None:
    run(tmp_path)
    expected = {"model": "the/base", "dtype": "bfloat16", "max_model_len": 96, "seed": 2, "enable_prefix_caching": True}
    assert stub.loaded == expected
    assert [ids for ids, _ in stub.asked] == [list(row.ids) for row in ENCODED for _ in range(2)]
    params = [param for _, param in stub.asked]
    assert {(param.temperature, param.top_p, param.max_tokens, param.n) for param in params} == {(0.5, 0.9, 7, 1)}
    assert all(param.stop == ["\n"] and param.skip_special_tokens for param in params)
    assert [param.seed for param in params] == [seed_of(2, name, n) for name in ("a", "b", "2") for n in (0, 1)]


def test_greedy_texts_have_no_seed(stub: Stub, tmp_path: Path) -> None:
    run(tmp_path, settings=GenerationSettings(7, top_p=0.5))
    assert {(p.seed, p.top_p, p.temperature, p.stop) for _, p in stub.asked} == {(None, 1.0, 0.0, None)}


def test_texts_are_kept_lot_by_lot(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharelora.evaluation.generation.vllm.CHUNK", 4)
    store, seen = run(tmp_path)
    assert [(text.text, text.tokens, text.ended) for text in store.results.values()] == [
        ("text 0", 0, "length"),
        ("text 1", 1, "eos"),
        ("text 2", 2, "eos"),
        ("text 3", 3, "stop"),
        ("text 4", 4, "length"),
        ("text 5", 5, "eos"),
    ]
    assert seen == [(4, 6, 6), (6, 6, 15)]
    assert TextStore(tmp_path / "out", {}).results == store.results


@pytest.mark.parametrize(("kind", "rank", "room"), [("share", 4, 8), ("share", 20, 32), ("lora", 16, 16)])
def test_an_adapter_is_given_in_plain_form(stub: Stub, tmp_path: Path, kind: str, rank: int, room: int) -> None:
    common = {"r": rank, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    config = ShareLoraConfig(share="a", **common) if kind == "share" else LoraConfig(**common)
    get_peft_model(make_model(), config).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    run(tmp_path, tmp_path / "adapter")
    assert (stub.adapter["peft_type"], stub.adapter["r"]) == ("LORA", rank)
    assert (stub.loaded["enable_lora"], stub.loaded["max_lora_rank"]) == (True, room)


def test_a_rank_that_vllm_has_no_room_for(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1024}))
    with pytest.raises(UserError, match="found an adapter of rank 1024; need at most 512"):
        run(tmp_path, tmp_path)


def test_what_vllm_cannot_load_is_one_line(stub: Stub, tmp_path: Path) -> None:
    def fail(**options: Any) -> Any:
        raise ValueError("Unsupported\narchitecture")

    stub.LLM = fail
    with pytest.raises(UserError, match="vllm cannot load the/base: Unsupported architecture; leave out --engine"):
        run(tmp_path)


def test_without_vllm_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"found --engine vllm, but vllm cannot be imported .* pip install vllm"):
        require_vllm()
