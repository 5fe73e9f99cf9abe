"""Base models, encoders and vision-language models: loaded, or built without weights; and saved adapters on them.

May import: tuner, data, plan, support. Begin with `load`; `known` has the published shapes by name.
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.models.load import BITS, DTYPES, PAD_TOKENS, load_base, load_tokenizer, resolve_model

__all__ = ["BITS", "DTYPES", "PAD_TOKENS", "load_base", "load_tokenizer", "resolve_model"]

make_lazy(__name__)
