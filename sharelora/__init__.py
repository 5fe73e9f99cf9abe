"""Share low-rank adapters over the layers of a language model.

`import sharelora` loads next to nothing, and yet makes PEFT know the adapters, so that
`peft.PeftModel.from_pretrained` loads them, whichever of the two is imported first.
"""

import sys
from typing import TYPE_CHECKING

from sharelora.support.lazy import MovedModules, make_lazy
from sharelora.support.old_names import OLD_NAMES
from sharelora.tuner.hub_kernels import refuse_hub_kernels
from sharelora.tuner.with_peft import quiet_bitsandbytes, register_with_peft

if TYPE_CHECKING:
    from sharelora.plan.plan import Entry as Entry
    from sharelora.plan.plan import SharingPlan as SharingPlan
    from sharelora.plan.rule import SharingRule as SharingRule
    from sharelora.plan.site import Site as Site
    from sharelora.support.errors import UserError as UserError
    from sharelora.tuner.config import ShareLoraConfig as ShareLoraConfig
    from sharelora.tuner.model import ShareLoraModel as ShareLoraModel
    from sharelora.tuner.sites import find_sites as find_sites

__version__ = "0.1.0"

make_lazy(__name__)
sys.meta_path.insert(0, MovedModules({f"sharelora.{old}": f"sharelora.{new}" for old, new in OLD_NAMES.items()}))
refuse_hub_kernels()
quiet_bitsandbytes()
register_with_peft()
