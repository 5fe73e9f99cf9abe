"""Differences between encoders: names of query and value, the longest input, the dropout in front of the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharelora.models.context import context_of
from sharelora.support.errors import UserError

_BERT_NAMES = ("query", "value")
# The modules that LoRA adapts, by architecture.
QUERY_VALUE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("albert", "bert", "camembert", "electra", "roberta", "xlm-roberta"), _BERT_NAMES),
    "deberta-v2": ("query_proj", "value_proj"),
    "distilbert": ("q_lin", "v_lin"),
    "mpnet": ("attn.q", "attn.v"),
}
# Names of the dropout in front of the head in their configurations.
_DROPOUTS = ("cls_dropout", "classifier_dropout", "seq_classif_dropout", "classifier_dropout_prob")
_NO_CLS_DROPOUT = {"deberta": "cls_dropout", "deberta-v2": "cls_dropout"}  # the field exists only once it is set


def default_modules(model_type: str) -> str:
    """Return query and value of an architecture, as `--lora_modules` takes them.

    Raises:
        UserError: their names are not known.
    """
    if model_type not in QUERY_VALUE:
        raise UserError(
            f"found a model of type {model_type!r}, whose query and value are not known here; need the names of "
            "modules to adapt; pass --lora_modules"
        )
    return ",".join(QUERY_VALUE[model_type])


def max_input_length(config: Any) -> int | None:
    """Return the longest input of a model in tokens, or None if all its positions are relative."""
    return context_of(config).tokens


def set_head_dropout(config: Any, rate: float) -> None:
    """Set the dropout in front of the head.

    Args:
        config: a model's configuration, which is changed.
        rate: probability of dropping.

    Raises:
        UserError: models of this type have none.
    """
    name = next((name for name in _DROPOUTS if hasattr(config, name)), _NO_CLS_DROPOUT.get(config.model_type))
    if name is None:
        raise UserError(f"found --cls_dropout; a model of type {config.model_type!r} has none; drop the flag")
    setattr(config, name, rate)
