"""Text that a model writes after prompts: in batches, greedy or drawn, up to stop strings, kept on disk as it ends."""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.evaluation.generation.engine import generate
    from sharelora.evaluation.generation.settings import Generated, GenerationSettings, Prompt
    from sharelora.evaluation.generation.store import TextStore

__all__ = ["Generated", "GenerationSettings", "Prompt", "TextStore", "generate"]

make_lazy(__name__)
