"""What was cut to fit the length limits: counted, with examples, in one warning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# A tokenizer without a real limit states an astronomically large one.
_NO_LIMIT = 10**6


@dataclass(frozen=True)
class SplitReport:
    """What happened to the rows of one split, lengths in tokens.

    Args:
        split: its name.
        rows: how many rows it has.
        source_limit: most tokens of a prompt.
        target_limit: most tokens of an answer, end token included.
        sources_cut: prompts that lost tokens in their middle.
        targets_cut: answers that lost their last tokens (never the end token).
        demonstrations_dropped: prompts that lost whole worked examples.
        longest_source: length of the longest prompt before any cut.
        longest_target: length of the longest answer before any cut, end token included.
        longest_row: length of the longest row as it is used.
        examples: some of the cut rows.
    """

    split: str
    rows: int
    source_limit: int
    target_limit: int
    sources_cut: int = 0
    targets_cut: int = 0
    demonstrations_dropped: int = 0
    longest_source: int = 0
    longest_target: int = 0
    longest_row: int = 0
    examples: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One sentence for each thing that was lost."""
        found = []
        if self.sources_cut:
            found.append(
                f"{self._share(self.sources_cut)} prompts lost their middle: longer than source_max_len "
                f"{self.source_limit} (longest {self.longest_source}); raise --source_max_len"
            )
        if self.demonstrations_dropped:
            found.append(
                f"{self._share(self.demonstrations_dropped)} prompts lost some of their worked examples to fit "
                f"source_max_len {self.source_limit} (longest {self.longest_source}); raise --source_max_len "
                "or lower --few_shot"
            )
        if self.targets_cut:
            found.append(
                f"{self._share(self.targets_cut)} answers lost their last tokens: longer than target_max_len "
                f"{self.target_limit} (longest {self.longest_target}); raise --target_max_len"
            )
        return [f"{self.split}: {line}" for line in found] + [f"  {example}" for example in self.examples]

    def _share(self, count: int) -> str:
        return f"{count:,} of {self.rows:,} ({100 * count / self.rows:.1f} %)"


@dataclass(frozen=True)
class TruncationReport:
    """What was cut in each split.

    Args:
        splits: one report for each split that was encoded.
        context: the longest input that the tokenizer states for its model, or None.
    """

    splits: tuple[SplitReport, ...]
    context: int | None = None

    @classmethod
    def of(cls, splits: Sequence[SplitReport], model_max_length: int) -> TruncationReport:
        """Collect reports; a tokenizer's `model_max_length` counts only where it is a real one."""
        return cls(tuple(splits), model_max_length if model_max_length < _NO_LIMIT else None)

    def render(self) -> str:
        """The whole report as text, empty where nothing was lost."""
        lines = [line for part in self.splits for line in part.lines()]
        longest = max((part.longest_row for part in self.splits), default=0)
        if self.context is not None and longest > self.context:
            lines.append(
                f"rows of up to {longest} tokens are longer than the model's context of {self.context}; "
                "lower --source_max_len and --target_max_len"
            )
        return "\n".join(["TRUNCATED OR TOO LONG ROWS", *lines]) if lines else ""

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, for result files."""
        return {"context": self.context, "splits": [asdict(part) for part in self.splits]}
