"""The embedded default: small models and data that the project makes itself, for runs without a hub or a GPU.

May import: data, support. Begin with `architectures`, then `build`; `world` is what the texts are about.
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.tiny.cache import ensure_tiny, tiny_data, tiny_vision_data

__all__ = ["ensure_tiny", "tiny_data", "tiny_vision_data"]

make_lazy(__name__)
