"""Small random models under the names of those that PEFT's tests take from the model hub, as its cache keeps them.

The sizes are those of the published models where a test relies on them, and small everywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"
VOCABULARY, TOKENS = 1000, 400
SPECIAL = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_OPT = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 4, "num_hidden_layers": 5, "num_attention_heads": 4}
_GPT = {"n_embd": 32, "n_layer": 5, "n_head": 4}
_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
_GROUPED = {**_LLAMA, "hidden_size": 32, "num_key_value_heads": 2}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 5, "num_heads": 4, "decoder_start_token_id": 0}
_BART = {
    "d_model": 16,
    **{f"{stack}_{name}": n for stack in ("encoder", "decoder") for name, n in (("layers", 2), ("attention_heads", 4))},
    "encoder_ffn_dim": 4,
    "decoder_ffn_dim": 4,
    "max_position_embeddings": 100,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 512,
}
_DEBERTA = {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_EXPERTS = {"num_local_experts": 4}
_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


@dataclass(frozen=True)
class Stand:
    """A model that stands in for published ones.

    Attributes:
        model: class in transformers.
        config: class of its configuration in transformers.
        sizes: fields of the configuration.
        names: of the published models.
    """

    model: str
    config: str
    sizes: dict[str, Any]
    names: tuple[str, ...]


STANDS = (
    Stand("OPTForCausalLM", "OPTConfig", {**_OPT, "max_position_embeddings": 100}, (
        "peft-internal-testing/tiny-random-OPTForCausalLM",
    )),
    Stand("OPTForCausalLM", "OPTConfig", {
        **_OPT, "hidden_size": 48, "word_embed_proj_dim": 48, "ffn_dim": 96, "num_hidden_layers": 12,
        "max_position_embeddings": 100,
    }, ("peft-internal-testing/opt-125m", "facebook/opt-125m", "facebook/opt-350m")),
    Stand("GPT2LMHeadModel", "GPT2Config", {**_GPT, "n_positions": 512}, (
        "gpt2", "openai-community/gpt2", "hf-internal-testing/tiny-random-gpt2",
        "peft-internal-testing/tiny-random-gpt2", "peft-internal-testing/tiny-random-GPT2LMHeadModel",
    )),
    Stand("GPTJForCausalLM", "GPTJConfig", {**_GPT, "rotary_dim": 4, "n_positions": 512}, (
        "peft-internal-testing/tiny-random-GPTJForCausalLM",
    )),
    Stand("GPTNeoXForCausalLM", "GPTNeoXConfig", {**_BERT, "hidden_size": 64}, (
        "peft-internal-testing/tiny-random-GPTNeoXForCausalLM",
    )),
    Stand("BloomForCausalLM", "BloomConfig", {"hidden_size": 32, "n_layer": 5, "n_head": 4}, (
        "peft-internal-testing/tiny-random-BloomForCausalLM",
    )),
    Stand("LlamaForCausalLM", "LlamaConfig", _LLAMA, (
        "trl-internal-testing/tiny-random-LlamaForCausalLM", "peft-internal-testing/tiny-random-LlamaForCausalLM",
        "hf-internal-testing/tiny-random-LlamaForCausalLM",
    )),
    Stand("LlamaForSequenceClassification", "LlamaConfig", {**_LLAMA, "num_labels": 2}, (
        "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2",
    )),
    Stand("MistralForCausalLM", "MistralConfig", _GROUPED, ("hf-internal-testing/tiny-random-MistralForCausalLM",)),
    Stand("Qwen2ForCausalLM", "Qwen2Config", {**_GROUPED, "hidden_size": 8, "tie_word_embeddings": True}, (
        "peft-internal-testing/tiny-dummy-qwen2",
    )),
    Stand("Qwen3ForCausalLM", "Qwen3Config", {**_LLAMA, "head_dim": 4}, (
        "trl-internal-testing/tiny-Qwen3ForCausalLM",
    )),
    Stand("Gemma3ForCausalLM", "Gemma3TextConfig", {**_GROUPED, "head_dim": 8, "sliding_window": 32}, (
        "hf-internal-testing/tiny-random-Gemma3ForCausalLM",
    )),
    Stand("T5ForConditionalGeneration", "T5Config", {**_T5, "num_decoder_layers": 5}, (
        "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated",
        "peft-internal-testing/tiny-random-T5ForConditionalGeneration", "peft-internal-testing/tiny-random-t5",
        "google/flan-t5-small",
    )),
    Stand("BartForConditionalGeneration", "BartConfig", _BART, (
        "peft-internal-testing/tiny-random-BartForConditionalGeneration",
    )),
    Stand("BertModel", "BertConfig", _BERT, (
        "peft-internal-testing/tiny-random-BertModel", "hf-internal-testing/tiny-random-BertModel",
    )),
    Stand("BertForMaskedLM", "BertConfig", _BERT, ("bert-base-uncased",)),
    Stand("BertForSequenceClassification", "BertConfig", {**_BERT, "num_labels": 2}, (
        "peft-internal-testing/tiny-random-BertForSequenceClassification",
    )),
    Stand("RobertaModel", "RobertaConfig", {**_BERT, "type_vocab_size": 16}, (
        "peft-internal-testing/tiny-random-RobertaModel",
    )),
    Stand("RobertaForSequenceClassification", "RobertaConfig", {**_BERT, "type_vocab_size": 16, "num_labels": 2}, (
        "peft-internal-testing/tiny-random-RobertaForSequenceClassification",
    )),
    Stand("DebertaModel", "DebertaConfig", _DEBERTA, ("peft-internal-testing/tiny-random-DebertaModel",)),
    Stand("DebertaV2Model", "DebertaV2Config", {**_DEBERTA, "num_hidden_layers": 2}, (
        "peft-internal-testing/tiny-random-DebertaV2Model",
    )),
    Stand("MixtralForCausalLM", "MixtralConfig", {**_GROUPED, **_EXPERTS}, ("hf-internal-testing/Mixtral-tiny",)),
    Stand("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {
        **_GROUPED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    }, ("trl-internal-testing/tiny-Qwen3MoeForCausalLM", "hf-internal-testing/tiny-qwen3-moe")),
    Stand("GptOssForCausalLM", "GptOssConfig", {
        **_GROUPED, **_EXPERTS, **_ROTARY, "hidden_size": 8, "intermediate_size": 32, "head_dim": 8,
        "num_experts_per_tok": 2,
    }, ("trl-internal-testing/tiny-GptOssForCausalLM",)),
    Stand("Llama4ForCausalLM", "Llama4TextConfig", {
        **_GROUPED, **_EXPERTS, "hidden_size": 8, "intermediate_size": 32, "intermediate_size_mlp": 32, "head_dim": 8,
        "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
    }, ("trl-internal-testing/tiny-Llama4ForCausalLM",)),
    Stand("CLIPTextModel", "CLIPTextConfig", {**_BERT, "num_hidden_layers": 2, "max_position_embeddings": 77}, (
        "peft-internal-testing/tiny-clip-text-2",
    )),
    Stand("ResNetForImageClassification", "ResNetConfig", {
        "embedding_size": 10, "hidden_sizes": [10, 20], "depths": [1, 1], "num_labels": 3, "layer_type": "basic",
    }, ("peft-internal-testing/tiny-random-ResNetForImageClassification",)),
)  # fmt: skip
# Adapters on the hub -> their base.
ADAPTERS = {
    "peft-internal-testing/tiny-OPTForCausalLM-lora": "peft-internal-testing/tiny-random-OPTForCausalLM",
    "peft-internal-testing/gpt2-lora-random": "gpt2",
}


def snapshot(hub: Path, name: str) -> Path:
    """Return the folder in which the hub's cache has the files of a model."""
    return hub / f"models--{name.replace('/', '--')}" / "snapshots" / REVISION


def prepare_hub(hub: Path) -> None:
    """Make every model that is not there yet.

    Args:
        hub: the cache folder (HF_HUB_CACHE).
    """
    todo = [(stand, name) for stand in STANDS for name in stand.names if not _ready(hub, name)]
    adapters = [name for name in ADAPTERS if not _ready(hub, name)]
    if not todo and not adapters:
        return
    tokenizer = _tokenizer()
    for stand, name in todo:
        _publish(hub, name, _model(stand), tokenizer)
    for name in adapters:
        _publish(hub, name, _adapter(hub, ADAPTERS[name]), tokenizer)


def _ready(hub: Path, name: str) -> bool:
    return (snapshot(hub, name).parents[1] / "refs" / "main").is_file()


def _model(stand: Stand) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, stand.config)(**{"vocab_size": VOCABULARY, **_IDS, **stand.sizes})
    return getattr(transformers, stand.model)(config)


def _adapter(hub: Path, base: str) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(snapshot(hub, base))
    adapted = get_peft_model(model, LoraConfig(r=8, task_type="CAUSAL_LM", init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=list(SPECIAL.values()), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_text(), trainer)
    special = {f"{name}_token": token for name, token in SPECIAL.items()}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special, sep_token=SPECIAL["eos"], cls_token=SPECIAL["bos"]
    )
    fast.chat_template = CHAT
    return fast


def _text() -> Iterator[str]:
    for number in range(20):
        yield f"the quick brown fox jumps over the lazy dog {number} times; hello world, this is a test"


def _publish(hub: Path, name: str, model: Any, tokenizer: Any) -> None:
    """Write a model and its tokenizer as if they had been fetched; the reference to the revision comes last."""
    folder = snapshot(hub, name)
    shutil.rmtree(folder.parents[1], ignore_errors=True)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reference = folder.parents[1] / "refs" / "main"
    reference.parent.mkdir()
    reference.write_text(REVISION, encoding="utf-8")
