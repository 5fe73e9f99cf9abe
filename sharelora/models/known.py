"""Published shapes by name, and models of them on the meta device: any plan can be counted on a laptop."""

# Parsers read the names, so this module loads fast: torch, transformers and the hub are imported where they are used.

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharelora.models.config_file import building, read_model_config
from sharelora.support.errors import UserError
from sharelora.support.text import nearest, one_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_ROPE_3 = {"rope_type": "default", "rope_theta": 500000.0}


def _llama(hidden: int, mlp: int, layers: int, heads: int, kv_heads: int | None = None, **other: Any) -> dict[str, Any]:
    facts = {"vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_parameters": _ROPE}
    shape = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers}
    attention = {"num_attention_heads": heads, "num_key_value_heads": kv_heads or heads}
    return {"model_type": "llama", **facts, **shape, **attention, **other}


def _roberta(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    facts = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    shape = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    return {"model_type": "roberta", **facts, **shape, "num_attention_heads": heads}


def _gpt2(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {"model_type": "gpt2", "n_embd": hidden, "n_layer": layers, "n_head": heads}


_LLAMA_2: dict[str, Any] = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_LLAMA_3: dict[str, Any] = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": _ROPE_3,
}
_DEBERTA_XXL = {
    "model_type": "deberta-v2",
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_hidden_layers": 48,
    "num_attention_heads": 24,
    "vocab_size": 128100,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "conv_kernel_size": 3,
    "conv_act": "gelu",
}

# The published shapes. LLaMA: the papers' tables of sizes; the others: the models' own config.json.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-7b": _llama(4096, 11008, 32, 32),
    "llama-13b": _llama(5120, 13824, 40, 40),
    "llama-30b": _llama(6656, 17920, 60, 52),
    "llama-65b": _llama(8192, 22016, 80, 64),
    "llama2-7b": _llama(4096, 11008, 32, 32, **_LLAMA_2),
    "llama2-13b": _llama(5120, 13824, 40, 40, **_LLAMA_2),
    "llama2-70b": _llama(8192, 28672, 80, 64, 8, **_LLAMA_2),
    "llama3-8b": _llama(4096, 14336, 32, 32, 8, **_LLAMA_3),
    "llama3-70b": _llama(8192, 28672, 80, 64, 8, **_LLAMA_3),
    "tinyllama-1.1b": _llama(2048, 5632, 22, 32, 4, rms_norm_eps=1e-5),
    "roberta-base": _roberta(768, 12, 12),
    "roberta-large": _roberta(1024, 24, 16),
    "deberta-v2-xxlarge": _DEBERTA_XXL,
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
}

# Names under which the same shapes are published; an owner in front of any other name means a hub repository.
ALIASES: dict[str, tuple[str, ...]] = {
    "llama-7b": ("huggyllama/llama-7b", "llama1-7b"),
    "llama-13b": ("huggyllama/llama-13b", "llama1-13b"),
    "llama-30b": ("huggyllama/llama-30b", "llama-33b", "llama1-30b"),
    "llama-65b": ("huggyllama/llama-65b", "llama1-65b"),
    "llama2-7b": ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
    "llama2-13b": ("meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-13b-chat-hf", "llama-2-13b"),
    "llama2-70b": ("meta-llama/Llama-2-70b-hf", "meta-llama/Llama-2-70b-chat-hf", "llama-2-70b"),
    "llama3-8b": ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
    "llama3-70b": ("meta-llama/Meta-Llama-3-70B", "meta-llama/Meta-Llama-3-70B-Instruct", "llama-3-70b"),
    "tinyllama-1.1b": ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama"),
    "roberta-base": ("FacebookAI/roberta-base",),
    "roberta-large": ("FacebookAI/roberta-large",),
    "deberta-v2-xxlarge": ("microsoft/deberta-v2-xxlarge",),
    "gpt2": ("openai-community/gpt2",),
    "gpt2-medium": ("openai-community/gpt2-medium",),
    "gpt2-large": ("openai-community/gpt2-large",),
}

# LoRA's names of the three sizes of GPT-2 (its flag --model_card).
MODEL_CARDS: Mapping[str, str] = {
    "gpt2.sm": "openai-community/gpt2",
    "gpt2.md": "openai-community/gpt2-medium",
    "gpt2.lg": "openai-community/gpt2-large",
}

# Types of models that are built as classifiers where their configuration names no class; all others are decoders.
_CLASSIFIERS = (
    "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta",
    "xlm-roberta",
)  # fmt: skip


def _spelling(name: str) -> str:
    return name.lower().replace("_", "-")


@cache
def _names() -> dict[str, str]:
    """Every accepted spelling, with and without its owner -> the name in `SHAPES`."""
    names = {name: name for name in SHAPES}
    for name, aliases in ALIASES.items():
        for alias in aliases:
            names[_spelling(alias)] = names[_spelling(alias).rpartition("/")[2]] = name
    return names


def known_name(name: str) -> str | None:
    """Return the name of the published shapes that `name` means, or None."""
    return _names().get(_spelling(name))


def model_config(name_or_path: str | Path, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return a model's configuration: of a folder, from the table of published shapes, or from the hub.

    Args:
        name_or_path: a folder with config.json, a known name or one of its aliases, or a hub id.
        trust_remote_code: passed to transformers for folders and hub ids.

    Raises:
        UserError: none of the three has it; the message gives the nearest known names.
    """
    from transformers import AutoConfig

    from sharelora.support import hub

    name = str(name_or_path)
    known = known_name(name)
    if known and not (Path(name) / "config.json").is_file():
        shape = dict(SHAPES[known])
        return AutoConfig.for_model(shape.pop("model_type"), **shape)
    if not Path(name).is_dir() and hub.cached_folder(name) is None and not hub.hub_reachable():
        raise _unknown(name, "no such folder or known model, and the hub cannot be reached")
    if (Path(name) / "config.json").is_file():
        read_model_config(name)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # a value of another kind can break transformers anywhere
        reason = "not known, and not on the hub"
        if Path(name).is_dir():
            reason = f"the folder has no usable config.json: {one_line(error, 150)}"
        raise _unknown(name, reason) from error


def _unknown(name: str, reason: str) -> UserError:
    known = [_names()[spelling] for spelling in nearest(_spelling(name), _names(), n=3)] or sorted(SHAPES)[:3]
    return UserError(
        f"no model {name!r} ({reason}); need a folder with config.json, the name of a model on the hub, or a known "
        f"name; nearest: {', '.join(dict.fromkeys(known))}"
    )


def is_encoder(config: PretrainedConfig) -> bool:
    """Whether models of this type are tuned as classifiers rather than as decoders."""
    return config.model_type in _CLASSIFIERS


def meta_classifier(config: PretrainedConfig) -> Any:
    """Build a classifier on the meta device, whatever class the configuration was published with.

    Raises:
        UserError: transformers has no classifier of this type.
    """
    import torch
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSIFIERS

    if type(config) not in CLASSIFIERS:
        raise UserError(
            f"found a model of type {config.model_type!r}; transformers has no classifier of that type; need an "
            "encoder such as RoBERTa, DeBERTa or BERT"
        )
    model_class: Any = CLASSIFIERS[type(config)]
    with building(config.model_type), torch.device("meta"):
        return model_class(config)


def meta_model(name_or_path: str | Path, trust_remote_code: bool = False) -> nn.Module:
    """Build a model on the meta device: every module and shape, not one byte of weights.

    Args:
        name_or_path: as for `model_config`.
        trust_remote_code: as for `model_config`; only models whose code is part of transformers are built.

    Raises:
        UserError: the model is not found, or transformers has no class for it.
    """
    import torch
    import transformers

    config = model_config(name_or_path, trust_remote_code)
    model_class: Any = getattr(transformers, (config.architectures or ["-"])[0], None)
    if model_class is None:
        classes: Any = (
            transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
            if is_encoder(config)
            else transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        )
        if type(config) not in classes:
            raise UserError(
                f"model {name_or_path} is of type {config.model_type!r}, for which transformers has neither a causal "
                "language model nor a classifier; give a model of another type"
            )
        model_class = classes[type(config)]
    with building(name_or_path), torch.device("meta"):
        return model_class(config)


# PEFT's name of a task -> the class of transformers that picks the architecture for it.
_TASKS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "CAUSAL_LM": "AutoModelForCausalLM",
}


def meta_model_with(
    name_or_path: str | Path, modules: Collection[str], weights: Collection[str] = (), task: str | None = None
) -> nn.Module:
    """Build the model that has certain modules on the meta device, whatever class it was published with.

    Args:
        name_or_path: as for `model_config`.
        modules: paths that it must have.
        weights: names that it should have; of models that have the modules, one with all of these is taken.
        task: what it was tuned for, by PEFT's name.

    Raises:
        UserError: the model is not found, or has no such modules in any class.
    """
    fitting: list[nn.Module] = []
    missing: set[str] = set()
    for model in meta_models(name_or_path, task):
        missing = set(modules) - {path for path, _ in model.named_modules()}
        if not missing and set(weights) <= model.state_dict().keys():
            return model
        fitting += [] if missing else [model]
    if not fitting:
        raise UserError(
            f"{name_or_path} is another model: it has no {min(missing, default='such class')}; give the adapter's base"
        )
    return fitting[-1]


def meta_models(name_or_path: str | Path, task: str | None = None) -> Iterator[nn.Module]:
    """Build a model on the meta device in every class that an adapter of it may have been made on.

    Args:
        name_or_path: as for `model_config`.
        task: what it was tuned for, by PEFT's name.

    Raises:
        UserError: the model is not found.
    """
    config = model_config(name_or_path)
    builders: list[Callable[[], Any]] = [lambda: meta_model(name_or_path)]
    if task in _TASKS:
        builders.append(lambda: _meta_for_task(config, _TASKS[task]))
    if is_encoder(config):
        builders.append(lambda: meta_classifier(config))
    for build in builders:
        # There may be no class of this type for the task.
        with suppress(UserError, ValueError):
            yield build()


def _meta_for_task(config: PretrainedConfig, auto_class: str) -> Any:
    import torch
    import transformers

    with torch.device("meta"):
        return getattr(transformers, auto_class).from_config(config)
