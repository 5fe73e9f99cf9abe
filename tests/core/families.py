"""A tiny random model of every family whose adapters are written to files, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 96
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_ENCODER = {name: value for name, value in _SIZES.items() if name != "num_key_value_heads"} | _NO_DROPOUT
_LATENT: dict[str, Any] = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "n_group": 1, "topk_group": 1, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "pad_token_id": None,
}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
}
_IMAGES = {**_VISION, "patch_size": 4, "num_channels": 3}


def _of(config: str, model: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(0)
        built = getattr(transformers, config)(**settings)
        made: nn.Module = getattr(transformers, model)(built)
        return made.eval()

    return make


def _causal(name: str, **settings: Any) -> Callable[[], nn.Module]:
    return _of(f"{name}Config", f"{name}ForCausalLM", **{**_SIZES, **settings})


def _text(model_type: str, **settings: Any) -> dict[str, Any]:
    return {"model_type": model_type, **_SIZES, **settings}


_SHARED_EXPERT = {**_EXPERTS, "shared_expert_intermediate_size": 24}
_T5 = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "dropout_rate": 0.0, "decoder_start_token_id": 0,
}  # fmt: skip
_BART = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    "dropout": 0.0,
}  # fmt: skip
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}
_MAMBA = {
    "use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
    "expert_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "num_hidden_layers": 4,
}  # fmt: skip
_NEXT = {
    "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "head_dim": 8,
}  # fmt: skip
_ERNIE = {
    "moe_intermediate_size": 16, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1,
    "moe_layer_start_index": 1,
}  # fmt: skip
_SIGLIP = {**_IMAGES, "model_type": "siglip_vision_model"}
_CLIP = {**_IMAGES, "model_type": "clip_vision_model", "projection_dim": 32}
_QWEN_EYE = {"depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 32, "patch_size": 4}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_GEMMA_IMAGES = {"mm_tokens_per_image": 4, "image_token_index": 90, "boi_token_index": 91, "eoi_token_index": 92}


def _seeing(name: str, text: dict[str, Any], vision: dict[str, Any], **settings: Any) -> Callable[[], nn.Module]:
    model = f"{name}ForConditionalGeneration"
    return _of(f"{name}Config", model, text_config=text, vision_config=vision, **settings)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": _causal("Llama"),
    "mistral": _causal("Mistral"),
    "qwen2": _causal("Qwen2"),
    "qwen3": _causal("Qwen3", head_dim=8),
    "gemma2": _causal("Gemma2", head_dim=8),
    "gemma3": _of("Gemma3TextConfig", "Gemma3ForCausalLM", **_SIZES, head_dim=8),
    "phi3": _causal("Phi3"),
    "gpt2": _of("GPT2Config", "GPT2LMHeadModel", **_GPT2),
    "gpt-neox": _causal("GPTNeoX"),
    "opt": _causal("OPT", ffn_dim=48, word_embed_proj_dim=32),
    "bloom": _of("BloomConfig", "BloomForCausalLM", **_BLOOM),
    "falcon": _causal("Falcon"),
    "mixtral": _causal("Mixtral", **_LOCAL),
    "qwen2-moe": _causal("Qwen2Moe", **_SHARED_EXPERT),
    "qwen2-moe dense": _causal("Qwen2Moe", **_SHARED_EXPERT, mlp_only_layers=[0]),
    "qwen3-moe": _causal("Qwen3Moe", **_EXPERTS, head_dim=8),
    "qwen3-moe dense": _causal("Qwen3Moe", **_EXPERTS, head_dim=8, mlp_only_layers=[0]),
    "qwen3-next": _causal("Qwen3Next", **_SHARED_EXPERT, **_NEXT),
    "deepseek-v2": _causal("DeepseekV2", **_LATENT),
    "deepseek-v3": _causal("DeepseekV3", **_LATENT),
    "glm4-moe": _causal("Glm4Moe", **{**_LATENT, "num_key_value_heads": 2}, head_dim=8),
    "ernie4.5-moe": _causal("Ernie4_5_Moe", **_ERNIE),
    "gpt-oss": _causal("GptOss", **_LOCAL, head_dim=8, sliding_window=4),
    "granite-moe": _causal("GraniteMoe", **_LOCAL),
    "granite-moe shared": _causal("GraniteMoeShared", **_LOCAL, shared_intermediate_size=24),
    "jamba": _causal("Jamba", num_experts=4, num_experts_per_tok=2, **_MAMBA),
    "olmoe": _causal("Olmoe", num_experts=4, num_experts_per_tok=2),
    "bert": _of("BertConfig", "BertForMaskedLM", **_ENCODER),
    "roberta": _of("RobertaConfig", "RobertaForSequenceClassification", **_ENCODER),
    "roberta language": _of("RobertaConfig", "RobertaForMaskedLM", **_ENCODER),
    "deberta-v2": _of("DebertaV2Config", "DebertaV2ForSequenceClassification", **_ENCODER),
    "modernbert": _of("ModernBertConfig", "ModernBertForMaskedLM", **_ENCODER, cls_token_id=0, sep_token_id=1),
    "t5": _of("T5Config", "T5ForConditionalGeneration", **_T5),
    "bart": _of("BartConfig", "BartForConditionalGeneration", **_BART),
    "gemma3 vision": _seeing("Gemma3", _text("gemma3_text", head_dim=8), _SIGLIP, **_GEMMA_IMAGES),
    "llava": _seeing("Llava", _text("llama"), _CLIP, image_token_index=90),
    "qwen2-vl": _seeing("Qwen2VL", _text("qwen2_vl_text", rope_parameters=_ROPE), _QWEN_EYE),
    "vit": _of("ViTConfig", "ViTForImageClassification", **_IMAGES, **_NO_DROPOUT),
}

# The same with one tensor for the input and the output embeddings, where that is not what the family has anyway.
TIED: dict[str, Callable[[], nn.Module]] = {
    "llama": _causal("Llama", tie_word_embeddings=True),
    "llava": _seeing("Llava", _text("llama", tie_word_embeddings=True), _CLIP, image_token_index=90),
    "qwen2-vl": _seeing("Qwen2VL", _text("qwen2_vl_text", rope_parameters=_ROPE), _QWEN_EYE, tie_word_embeddings=True),
    "qwen2-moe": _causal("Qwen2Moe", **_SHARED_EXPERT, tie_word_embeddings=True),
    **{name: FAMILIES[name] for name in ("gpt2", "gemma3", "gemma3 vision", "bert", "roberta language", "t5", "bart")},
}


def inputs(model: nn.Module) -> dict[str, Tensor]:
    """Return what a family's model reads: images, tokens, or tokens for both halves."""
    draw = torch.Generator().manual_seed(1)
    config: Any = model.config
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(2, 3, 8, 8, generator=draw)}
    ids = torch.randint(3, 90, (2, 9), generator=draw)
    return {"input_ids": ids, **({"decoder_input_ids": ids} if config.is_encoder_decoder else {})}
