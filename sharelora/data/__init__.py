"""Data sets, prompts, tokens and batches; nothing here knows of models or adapters.

May import: support. Begin with `registry` (the sets by name), then `build` (from flags to batches).
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.data.arguments import DataArguments
    from sharelora.data.build import DataModule, build_data
    from sharelora.data.packing import PackedRows, check_isolation
    from sharelora.data.splits import Splits, load_splits
    from sharelora.data.token_rows import PredictCollator, TokenRows, TrainCollator
    from sharelora.data.tokenise import SplitReport, TruncationReport, padding_id

__all__ = [
    "DataArguments",
    "DataModule",
    "PackedRows",
    "PredictCollator",
    "SplitReport",
    "Splits",
    "TokenRows",
    "TrainCollator",
    "TruncationReport",
    "build_data",
    "check_isolation",
    "load_splits",
    "padding_id",
]

make_lazy(__name__)
