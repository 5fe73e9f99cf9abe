"""Base models, encoders and vision-language models: found, loaded, known by name without weights, and adapters on them.

May import: tuner, plan, support. Begin with `load`; `known` has the shapes of models that are named.
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.models.load import BITS, DTYPES, PAD_TOKENS, load_base, load_tokenizer, locate_model

__all__ = ["BITS", "DTYPES", "PAD_TOKENS", "load_base", "load_tokenizer", "locate_model"]

make_lazy(__name__)
