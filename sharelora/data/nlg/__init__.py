"""Data-to-text sets (E2E, WebNLG, DART): rows in every published schema, tokens, and LoRA's conversions."""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.data.nlg.load import load_nlg, locate_nlg
    from sharelora.data.nlg.records import Group, Record, grouped
    from sharelora.data.nlg.token_files import load_encoded
    from sharelora.data.nlg.tokens import Encoded, NlgReport, encode_records, token_rows

__all__ = [
    "Encoded",
    "Group",
    "NlgReport",
    "Record",
    "encode_records",
    "grouped",
    "load_encoded",
    "load_nlg",
    "locate_nlg",
    "token_rows",
]

make_lazy(__name__)
