"""Data sets, prompts, tokens and batches. Nothing here knows about models or adapters."""

from sharelora.data.arguments import DataArguments
from sharelora.data.build import DataModule, build_data
from sharelora.data.collators import PredictCollator, TrainCollator
from sharelora.data.encoding import padding_id
from sharelora.data.packing import PackedRows, check_isolation
from sharelora.data.report import SplitReport, TruncationReport
from sharelora.data.rows import TokenRows
from sharelora.data.splits import Splits, load_splits

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
