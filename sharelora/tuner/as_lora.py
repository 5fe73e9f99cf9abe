"""What PEFT does for LoRA alone, because it asks for the name of the method, done for ShareLoRA as well.

`tests/core/test_peft_places.py` lists every such place of PEFT, with what becomes of it here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from peft import PeftWarning
from torch import Tensor

from sharelora.plan.plan import SharingPlan


def warn_of_shards(tensors: Mapping[str, Tensor], plan: SharingPlan, prefix: str, adapter: str) -> None:
    """Warn where matrices that are about to be saved do not have the shapes of the plan.

    Args:
        tensors: what is saved, by name in the model.
        plan: of the adapter.
        prefix: what comes before the name of a matrix in that of its tensor.
        adapter: name of the adapter.
    """
    shapes = {name.rpartition(prefix)[2]: tuple(value.shape) for name, value in tensors.items() if prefix in name}
    wrong = [name for name, shape in shapes.items() if shape != plan.matrices.get(name)]
    if wrong:
        warnings.warn(
            f"adapter {adapter!r} is saved with {len(wrong)} of {len(shapes)} matrices in other shapes than its plan "
            f"has, first {wrong[0]}: {shapes[wrong[0]]}; they look like DeepSpeed ZeRO-3 / FSDP shards that "
            "nobody gathered, and nothing can load them; gather the weights and pass them as state_dict",
            PeftWarning,
            stacklevel=2,
        )
