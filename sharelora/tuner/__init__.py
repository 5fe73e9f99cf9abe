"""The PEFT tuner: a configuration, a bank that holds every matrix once, and layers that use it.

May import: plan, support. Begin with `config`, then `model`; `layer` is the adapted layer, `kernels.reference` the
formula.
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.tuner.config import ShareLoraConfig
    from sharelora.tuner.model import BANK, ShareLoraModel
    from sharelora.tuner.quantization import precision

__all__ = ["BANK", "ShareLoraConfig", "ShareLoraModel", "precision"]

make_lazy(__name__)
