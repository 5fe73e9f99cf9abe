"""Beam search with the meaning of LoRA's gpt2_beam.py, in batches, each distinct input once.

Begin with `settings`, then `search`.
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.evaluation.beam.decoding import Decoded, decode
    from sharelora.evaluation.beam.search import Hypothesis
    from sharelora.evaluation.beam.settings import BeamSettings

__all__ = ["BeamSettings", "Decoded", "Hypothesis", "decode"]

make_lazy(__name__)
