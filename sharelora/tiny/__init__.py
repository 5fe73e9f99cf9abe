"""The embedded default: small models and data that the project makes itself, for runs without a hub or a GPU.

May import: data, support. Begin with `architectures`, then `build`; `world` is what the texts are about.
"""

from sharelora.tiny.cache import ensure_tiny, tiny_data, tiny_vision_data

__all__ = ["ensure_tiny", "tiny_data", "tiny_vision_data"]
