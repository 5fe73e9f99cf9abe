"""Adapters as files: read and checked, exported as plain LoRA, merged into a base, imported, compressed.

May import: models, tuner, plan, support. Begin with `adapter_file`; each command of `sharelora` has a module.
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.convert.compression import compress as compress
    from sharelora.convert.exporting import export_lora as export_lora
    from sharelora.convert.exporting import export_loralib as export_loralib
    from sharelora.convert.fit import RankSelection as RankSelection
    from sharelora.convert.importing import import_lora as import_lora
    from sharelora.convert.inspection import inspect as inspect
    from sharelora.convert.merging import merge as merge


make_lazy(__name__)
