"""Base models and tokenizers: found before anything is loaded, and loaded from safetensors alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from sharelora.models.config_file import FILE, read_model_config
from sharelora.support import hub
from sharelora.support.errors import UserError
from sharelora.support.lazy import moved_functions
from sharelora.support.reading import library_errors
from sharelora.tuner.files import CONFIG_FILE as ADAPTER_CONFIG
from sharelora.tuner.quantization import has_bitsandbytes, protect_4bit, release_file

DTYPES: dict[str, torch.dtype | str] = {
    "auto": "auto",
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
BITS = (4, 8, 16, 32)
# Checkpoints of these classes have every weight; the head of an encoder may be new.
_COMPLETE = (AutoModelForCausalLM, AutoModelForImageTextToText)
_TOKENIZER = "need tokenizer.json in the folder of the model; copy it there"
# Tokens that only ever pad, in the vocabularies of common models.
PAD_TOKENS = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<unk>")


def resolve_model(
    name_or_path: str,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | None = None,
) -> str:
    """Find a base model before anything is loaded: a folder, a complete cached copy, or a reachable hub repository.

    Returns:
        A folder, or the hub id of a model that is not on this machine.

    Raises:
        UserError: not found, not reachable, or without safetensors weights; in seconds, never after network retries.
    """
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    if hub.looks_like_a_path(name_or_path):
        raise hub.missing_folder(name_or_path, "model")
    cached = hub.cached_folder(name_or_path, "config.json", revision, cache_dir)
    if cached is not None and hub.has_weights(cached):
        return str(cached)
    if not hub.hub_reachable():
        raise hub.unreachable(name_or_path, "model")
    _refuse_pickle(name_or_path, hub.repository_files(name_or_path, revision, token))
    return name_or_path


def _check_folder(folder: Path) -> None:
    names = [file.name for file in folder.iterdir()]
    if FILE not in names:
        if ADAPTER_CONFIG in names:
            raise UserError(f"{folder} is an adapter; need its base model here; pass the adapter with --adapter")
        raise UserError(f"{folder} has no config.json; need a model folder in the Hugging Face layout; check the path")
    read_model_config(folder)
    _refuse_pickle(str(folder), names)
    if not hub.has_weights(folder):
        raise UserError(f"{folder} lacks weights; need model.safetensors or every shard of its index; copy them again")


def _refuse_pickle(name: str, files: list[str]) -> None:
    if any(file.endswith(".safetensors") for file in files):
        return
    if any(file.endswith((".bin", ".pt", ".pth")) for file in files):
        raise UserError(
            f"{name} has only pickled weights (pytorch_model.bin), which can run code when loaded; "
            "need model.safetensors; convert it once with save_pretrained, or use a revision that has safetensors"
        )


def load_base(
    name_or_path: str,
    bits: int = 16,
    dtype: str = "auto",
    quant_type: str = "nf4",
    double_quant: bool = True,
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    auto_class: Any = AutoModelForCausalLM,
    report: dict[str, Any] | None = None,
    unquantised: Sequence[str] = (),
    shardable: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Load a base model, quantised on request, in evaluation mode.

    Args:
        name_or_path: a folder or a hub id.
        bits: 16 and 32 load plain weights (32 means fp32 unless `dtype` says otherwise), 8 and 4 quantise them.
        dtype: "bf16", "fp16", "fp32" or "auto" (the checkpoint's own); of a quantised model, the dtype it computes in.
        quant_type: "nf4" or "fp4".
        double_quant: quantise the quantisation constants too.
        device_map: devices of the layers; None leaves a plain model on the CPU.
        auto_class: the transformers class that picks the architecture.
        report: receives transformers' loading info: weights that were missing or of another shape.
        unquantised: modules that are not quantised where the others are; by default the head alone.
        shardable: store packed 4-bit weights as numbers of the dtype that the model computes in; FSDP2 shards no other.
        options: of `from_pretrained`, e.g. `num_labels`.

    Raises:
        UserError: the model is missing, damaged, pickled or of another kind, or bitsandbytes is not installed.
    """
    if bits not in BITS or dtype not in DTYPES:
        raise UserError(f"found bits {bits} and dtype {dtype}; need bits of {BITS} and dtype of {sorted(DTYPES)}")
    source = resolve_model(name_or_path, revision, token, cache_dir)
    if bits == 32 and dtype == "auto":
        dtype = "fp32"
    if bits < 16:
        options["quantization_config"] = _quantization(
            bits, DTYPES[dtype], quant_type, double_quant, unquantised, shardable
        )
    with library_errors(f"model {name_or_path} cannot be loaded", "check the folder"):
        model, info = auto_class.from_pretrained(
            source,
            dtype=DTYPES[dtype],
            device_map=device_map,
            revision=None if Path(source).is_dir() else revision,
            token=token,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    if report is not None:
        report.update(info)
    missing = sorted(info["missing_keys"])
    if auto_class in _COMPLETE and missing:
        raise UserError(
            f"model {name_or_path} lacks {len(missing)} weights of its architecture, first {missing[0]}; "
            "need a complete model; it may be damaged or of another kind"
        )
    protect_4bit(model)
    if bits < 16:
        release_file(model)
    return model.eval()


def _quantization(
    bits: int,
    dtype: torch.dtype | str,
    quant_type: str,
    double_quant: bool,
    unquantised: Sequence[str],
    shardable: bool,
) -> BitsAndBytesConfig:
    if not has_bitsandbytes():
        raise UserError(
            f"found --bits {bits} but bitsandbytes is not installed; need it for 4-bit and 8-bit bases; "
            "run pip install bitsandbytes, or pass --bits 16"
        )
    if quant_type not in ("nf4", "fp4"):
        raise UserError(f"found quant_type {quant_type}; need nf4 or fp4; change --quant_type")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(unquantised) or None)
    compute_dtype = torch.bfloat16 if dtype == "auto" else dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
        bnb_4bit_quant_storage=compute_dtype if shardable else torch.uint8,
        # Whatever its name, it applies to 4 bits too.
        llm_int8_skip_modules=list(unquantised) or None,
    )


def load_tokenizer(
    name_or_path: str,
    revision: str | None = None,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    padding_side: str = "right",
) -> Tokenizer:
    """Load a tokenizer that can pad, without a new token, a new embedding row or a changed meaning.

    A tokenizer without a padding token gets an existing one as such: one made for padding, else the end token. Masks
    are built from lengths everywhere in this project, so padding with the end token hides no real one.

    Raises:
        UserError: the tokenizer is missing or damaged, knows no words, or has no token to pad with.
    """
    source = _resolve_tokenizer(name_or_path, revision, token, cache_dir)
    with library_errors(f"the tokenizer of {name_or_path} cannot be loaded", _TOKENIZER):
        tokenizer = AutoTokenizer.from_pretrained(
            source,
            revision=None if Path(source).is_dir() else revision,
            token=token,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            padding_side=padding_side,
        )
    if not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(
            f"the tokenizer of {name_or_path} has {str(tokenizer.model_max_length)[:60]!r} as model_max_length; need a "
            "number; correct it in tokenizer_config.json"
        )
    special = set(tokenizer.all_special_tokens)
    # All words are listed only where there are so few; that of a large vocabulary takes a quarter of a second.
    few = len(tokenizer) < len(special) + 2
    if few and (words := len(set(tokenizer.get_vocab()) - special)) < 2:  # as of a file that was not found
        raise UserError(
            f"the tokenizer of {name_or_path} knows {words} words besides special tokens; need one that tells texts "
            "apart; copy all of its files"
        )
    if tokenizer.pad_token_id is None:
        vocabulary = tokenizer.get_vocab()
        pad_token = next((pad for pad in PAD_TOKENS if pad in vocabulary), tokenizer.eos_token)
        if pad_token is None:
            raise UserError(
                f"the tokenizer of {name_or_path} has no padding and no end token; need one; set pad_token in it"
            )
        tokenizer.pad_token = str(pad_token)
    return tokenizer


def _resolve_tokenizer(name: str, revision: str | None, token: str | bool | None, cache_dir: str | None) -> str:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if hub.looks_like_a_path(name):
        raise hub.missing_folder(name, "model")
    for file in ("tokenizer.json", "tokenizer.model", "vocab.json"):
        cached = hub.cached_folder(name, file, revision, cache_dir)
        if cached is not None:
            return str(cached)
    if not hub.hub_reachable():
        raise hub.unreachable(name, "model")
    hub.repository_files(name, revision, token)
    return name


if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __getattr__ = moved_functions(__name__)
