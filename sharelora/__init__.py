# ruff: noqa: E402 - PEFT imports bitsandbytes, which logs on import unless told not to first
"""Share low-rank adapters over the layers of a language model.

`import sharelora` also makes PEFT know the adapters, so that `peft.PeftModel.from_pretrained` loads them.
"""

from sharelora.tuner.quantization import quiet_bitsandbytes

quiet_bitsandbytes()

from sharelora.plan.plan import Entry as Entry
from sharelora.plan.plan import SharingPlan as SharingPlan
from sharelora.plan.rule import SharingRule as SharingRule
from sharelora.plan.site import Site as Site
from sharelora.support.errors import UserError as UserError
from sharelora.tuner.config import ShareLoraConfig as ShareLoraConfig
from sharelora.tuner.model import ShareLoraModel as ShareLoraModel
from sharelora.tuner.sites import find_sites as find_sites

__version__ = "0.1.0"
