# ruff: noqa: E402 - PEFT imports bitsandbytes, which logs on import unless told not to first
"""Share low-rank adapters over the layers of a language model.

`import sharelora` also makes PEFT know the adapters, so that `peft.PeftModel.from_pretrained` loads them.
"""

from sharelora.quantization import quiet_bitsandbytes

quiet_bitsandbytes()

from sharelora.config import ShareLoraConfig as ShareLoraConfig
from sharelora.errors import UserError as UserError
from sharelora.plan import Entry as Entry
from sharelora.plan import SharingPlan as SharingPlan
from sharelora.plan import Site as Site
from sharelora.rules import SharingRule as SharingRule
from sharelora.sites import find_sites as find_sites
from sharelora.tuner import ShareLoraModel as ShareLoraModel

__version__ = "0.1.0"
