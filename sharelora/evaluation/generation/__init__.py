"""Text that a model writes after prompts: batched, greedy or sampled, up to stop strings, on disk as each text ends.

Begin with `settings`, then `engine`.
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.evaluation.generation.engine import TextStore, generate
    from sharelora.evaluation.generation.settings import Generated, GenerationSettings, Prompt

__all__ = ["Generated", "GenerationSettings", "Prompt", "TextStore", "generate"]

make_lazy(__name__)
