"""Adapters as files: read and check, expand to plain LoRA, merge into a base, take over from other tools, compress."""

from sharelora.checkpoint.compressing import compress as compress
from sharelora.checkpoint.export import export_lora as export_lora
from sharelora.checkpoint.flat import export_loralib as export_loralib
from sharelora.checkpoint.importing import import_lora as import_lora
from sharelora.checkpoint.inspection import inspect as inspect
from sharelora.checkpoint.merging import merge as merge
from sharelora.checkpoint.sizes import Size as Size
