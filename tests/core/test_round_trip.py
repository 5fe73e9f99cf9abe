"""LoRAs as PEFT's users make them: imported, merged, exported and compressed, they compute the same at every step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from toy_models import QV, gpt2, llama, logits, roberta

from sharelora import SharingRule, UserError
from sharelora.convert import compress, export_lora, import_lora, merge
from sharelora.models.adapter import load_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*", "ignore:.*save_embedding_layers.*")
TIED = partial(llama, tie_word_embeddings=True)
BOTH = {"embed_tokens": [3, 5], "lm_head": [4]}
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "dora": (llama, {"use_dora": True, "use_rslora": True}),
    "biases": (partial(llama, attention_bias=True), {"bias": "all"}),
    "ranks": (llama, {"rank_pattern": {r"^model.layers.0.self_attn.q_proj": 2, r"\d.self_attn.v_proj": 8}}),
    "alphas": (llama, {"alpha_pattern": {r".*\.1\.self_attn\.v_proj": 32}, "rank_pattern": {"q_proj": 2}}),
    "modules": (llama, {"modules_to_save": ["mlp", "embed_tokens"]}),
    "transposed": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "modules_to_save": ["wte"]}),
    "expression": (llama, {"target_modules": r"model\.layers\.[02]\.self_attn\.(q|v)_proj"}),
    "some layers": (llama, {"layers_to_transform": [1, 2], "layers_pattern": "layers"}),
    "exclusions": (llama, {"target_modules": "all-linear", "exclude_modules": r".*\.1\.mlp\..*"}),
    "tied head": (TIED, {"target_modules": ["q_proj", "lm_head"]}),
    "tokens": (llama, {"trainable_token_indices": [3, 5]}),
    "tokens of both": (llama, {"trainable_token_indices": BOTH}),
    "tied tokens": (TIED, {"trainable_token_indices": [3, 5]}),
    "tied tokens apart": (TIED, {"trainable_token_indices": BOTH}),
    "classifier": (roberta, {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
}  # fmt: skip
BATCH = {"input_ids": torch.tensor([[3, 5, 4, 7, 9], [4, 3, 8, 5, 6]])}


def made_with_peft(folder: Path, make: Callable[[], nn.Module], **settings: Any) -> tuple[Any, torch.Tensor]:
    """Save a base and a plain LoRA with values of its own; return the base's class and the logits."""
    base: Any = make()
    base.save_pretrained(folder / "base")
    model = get_peft_model(base, LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": QV, **settings}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, value in sorted(model.named_parameters()):
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=generator) * 0.2)
    model.save_pretrained(str(folder / "plain"))
    return type(base), logits(model, **BATCH)


# The others take a second each.
QUICK = ("modules", "dora", "ranks", "tied head")


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]
)
def test_a_lora_of_peft_computes_the_same_at_every_step(tmp_path: Path, case: str) -> None:
    make, settings = CASES[case]
    base_class, expected = made_with_peft(tmp_path, make, **settings)

    def same(model: nn.Module, need: torch.Tensor = expected) -> None:
        torch.testing.assert_close(logits(model, **BATCH), need, rtol=1e-4, atol=1e-5)

    def base() -> Any:
        return base_class.from_pretrained(tmp_path / "base")

    import_lora(tmp_path / "plain", tmp_path / "compact", SharingRule(), base=tmp_path / "base")
    same(load_adapter(base(), tmp_path / "compact"))
    merge(tmp_path / "base", tmp_path / "compact", tmp_path / "merged")
    same(base_class.from_pretrained(tmp_path / "merged"))
    export_lora(tmp_path / "compact", tmp_path / "again", base=tmp_path / "base")
    same(PeftModel.from_pretrained(base(), tmp_path / "again"))
    compress(tmp_path / "plain", tmp_path / "small", SharingRule("a"), base=tmp_path / "base")
    shared = logits(load_adapter(base(), tmp_path / "small"), **BATCH)
    merge(tmp_path / "base", tmp_path / "small", tmp_path / "small merged")
    same(base_class.from_pretrained(tmp_path / "small merged"), shared)


@pytest.mark.parametrize("shard_size", ["50GB", "8KB"])
def test_a_half_precision_base_in_shards_keeps_its_dtype_when_it_is_untied(tmp_path: Path, shard_size: str) -> None:
    base_class, _ = made_with_peft(tmp_path, TIED, modules_to_save=["lm_head"])
    import_lora(tmp_path / "plain", tmp_path / "compact", SharingRule(), base=tmp_path / "base")
    base_class.from_pretrained(tmp_path / "base", dtype=torch.bfloat16).save_pretrained(
        tmp_path / "half", max_shard_size=shard_size
    )
    merge(tmp_path / "half", tmp_path / "compact", tmp_path / "merged")
    files = sorted((tmp_path / "merged").glob("*.safetensors"))
    weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert len(files) == (1 if shard_size == "50GB" else len(sorted((tmp_path / "half").glob("*.safetensors"))))
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    trained = load_file(tmp_path / "plain" / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    torch.testing.assert_close(weights["lm_head.weight"], trained.bfloat16(), rtol=0, atol=0)
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])


def test_tokens_without_their_indices_are_refused(tmp_path: Path) -> None:
    made_with_peft(tmp_path, llama, trainable_token_indices=[3, 5])
    import_lora(tmp_path / "plain", tmp_path / "compact", SharingRule(), base=tmp_path / "base")
    file = tmp_path / "compact" / "adapter_config.json"
    file.write_text(file.read_text().replace('"trainable_token_indices"', '"other"'))
    with pytest.raises(UserError, match="need trainable_token_indices"):
        merge(tmp_path / "base", tmp_path / "compact", tmp_path / "merged")
