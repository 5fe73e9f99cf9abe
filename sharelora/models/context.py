"""The most tokens that a model reads, and the tokens that it knows: read from its configuration, for every command.

Architectures name the same limit differently, count positions from different numbers, or have none: distances between
tokens (T5, DeBERTa, ALiBi) and recurrent states (Mamba) go on for ever.
"""

from __future__ import annotations

from typing import Any

from sharelora.data.context import Context

# GPT-2's n_positions is found under the first name; MPT, and models that come with their own code, have the others.
_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx")
# What configurations with rotary positions have; GPT-J and CodeGen (`rotary_dim`) read their angles from a table.
_ROTARY = ("rope_parameters", "rope_theta", "rope_scaling", "rotary_emb_base", "rotary_pct")
# These have neither: no positions at all, or sinusoids that are computed as far as they are needed.
_COMPUTED = ("jamba", "kimi_linear", "recurrent_gemma", "xglm")
# In these the first position comes after the padding token.
_AFTER_PADDING = (
    *("camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
)


def context_of(config: Any) -> Context:
    """Return what a model can read.

    Args:
        config: of transformers; of a model that sees, that of its language model is read.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    vocabulary = getattr(text, "vocab_size", None)
    tokens = None if _is_relative(text) else _positions(text)
    table = tokens is not None and text.model_type not in _COMPUTED and not any(getattr(text, n, 0) for n in _ROTARY)
    return Context(tokens, table, vocabulary if isinstance(vocabulary, int) else None)


def _is_relative(text: Any) -> bool:
    """Whether nothing but the distance between tokens counts."""
    return (
        getattr(text, "alibi", None) is True
        or getattr(text, "position_embedding_type", None) == "alibi"
        # T5's old configurations name a number of positions; MPNet has distances and positions.
        or (hasattr(text, "relative_attention_num_buckets") and not hasattr(text, "max_position_embeddings"))
        or not getattr(text, "position_biased_input", True)
    )


def _positions(text: Any) -> int | None:
    values = (getattr(text, name, None) for name in _NAMES)
    tokens = next((value for value in values if isinstance(value, int) and value > 0), None)
    if tokens is None or text.model_type not in _AFTER_PADDING:
        return tokens
    return tokens - (text.pad_token_id or 0) - 1
