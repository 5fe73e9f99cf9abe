"""config.json of a base model, checked before transformers makes anything of it.

transformers builds as many layers as the file says, of any size. What no model has is refused here, and so is a value
of another kind; what else is wrong is for transformers to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sharelora.support.errors import UserError
from sharelora.support.reading import NAME, library_errors, misfit, read_json

FILE = "config.json"
# Some models give a size for each layer, or none.
_COUNT, _SIZE = ((range(most + 1), [(range(most + 1), None)], None) for most in (1000, 1 << 31))
_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
_SIZES = (
    *("hidden_size", "d_model", "n_embd", "intermediate_size", "d_ff", "n_inner", "ffn_dim", "vocab_size", "head_dim"),
    *("num_attention_heads", "n_head", "num_heads", "num_key_value_heads", "num_experts", "num_local_experts"),
    *("max_position_embeddings", "n_positions", "type_vocab_size"),
)
_SHAPE: Mapping[str, Any] = {
    **{"model_type?": (NAME, None), "architectures?": ([NAME], None), "quantization_config?": (dict, None)},
    **{f"{name}?": _COUNT for name in _COUNTS},
    **{f"{name}?": _SIZE for name in _SIZES},
}


def read_model_config(folder: str | Path) -> dict[str, Any]:
    """Read the configuration of a model in a folder.

    Raises:
        UserError: it is missing, no JSON object, or holds what no model has.
    """
    file = Path(folder) / FILE
    config: dict[str, Any] = read_json(file)
    parts = {"": config, **{f"{name}.": value for name, value in config.items() if name.endswith("_config")}}
    for prefix, part in parts.items():
        if isinstance(part, dict) and (fault := misfit(part, _SHAPE)):
            raise UserError(f"{file} has {fault}{f' (in {prefix[:-1]})' if prefix else ''}; need that of a model")
    return config


def building(name: object) -> AbstractContextManager[None]:
    """Turn whatever a configuration breaks while a model is built from it into one line.

    Args:
        name: of the model.
    """
    need = "need that of a published or saved model; copy it again"
    return library_errors(f"no model can be built from {FILE} of {name}", need)
