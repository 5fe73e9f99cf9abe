"""Settings of a grouping: the method, the measure, and the threshold or number of layers to reach."""

from __future__ import annotations

from dataclasses import dataclass

from sharelora.layer_groups.grouping import (
    Grouping,
    Matrix,
    fewest,
    greedy,
    most_similar,
    most_similar_pair,
    strict,
)
from sharelora.layer_groups.similarity import COSINE, MEASURES, Similarity
from sharelora.support.errors import UserError

GREEDY, STRICT, OPTIMAL = "greedy", "strict", "optimal"
METHODS = {GREEDY: greedy, STRICT: strict, OPTIMAL: fewest}
THRESHOLD = 0.85  # the paper's, for LLaMA-7B and LLaMA2-7B


@dataclass(frozen=True)
class GroupingSettings:
    """How to group layers.

    Attributes:
        method: `greedy` is Algorithm 1 of the second ShareLoRA paper, `strict` the same with every pair of a group
            reaching the threshold, `optimal` the fewest groups of neighbouring layers with that property.
        threshold: the similarity that layers of a group must reach.
        measure: `cosine`, or `angular`: 1 - arccos(cosine) / pi.
        distinct: instead of a threshold, how many distinct layers to keep; for `optimal`.

    Raises:
        UserError: an unknown method or measure, a threshold that the measure cannot have, or a number of distinct
            layers with another method than `optimal`.
    """

    method: str = GREEDY
    threshold: float = THRESHOLD
    measure: str = COSINE
    distinct: int | None = None

    def __post_init__(self) -> None:
        for flag, value, known in (
            ("grouping", self.method, METHODS),
            ("similarity_measure", self.measure, MEASURES),
        ):
            if value not in known:
                raise UserError(f"found {flag} {value!r}; need one of {', '.join(known)}; change --{flag}")
        low, high = MEASURES[self.measure]
        if not low <= self.threshold <= high:
            raise UserError(
                f"found similarity_threshold {self.threshold:g}; {self.measure} similarity goes from {low:g} to "
                f"{high:g}; change --similarity_threshold"
            )
        if self.distinct is not None and self.method != OPTIMAL:
            raise UserError(
                f"found distinct_layers {self.distinct} with grouping {self.method}; only {OPTIMAL} makes a wanted "
                f"number; pass --grouping {OPTIMAL}"
            )

    def group(self, similar: Matrix) -> Grouping:
        """Group layers.

        Args:
            similar: (L, L), by this measure.

        Raises:
            UserError: no two layers are similar enough, or more distinct layers were requested than possible.
        """
        if self.distinct is not None:
            if not 1 <= self.distinct < len(similar):
                raise UserError(
                    f"found distinct_layers {self.distinct} for {len(similar)} layers; need 1 to {len(similar) - 1}; "
                    "change --distinct_layers"
                )
            return most_similar(similar, self.distinct)
        grouping = METHODS[self.method](similar, self.threshold)
        if grouping.groups:
            return grouping
        if len(similar) < 2:
            raise UserError("found a model of one layer; need at least two to group; drop the groups")
        one, other = most_similar_pair(similar)
        neighbours = " neighbouring" if self.method == OPTIMAL else ""
        raise UserError(
            f"found no two{neighbours} layers with a {self.measure} similarity of {self.threshold:g}; the most similar "
            f"are {one} and {other} with {similar[one][other]:.4f}; lower --similarity_threshold"
        )

    def apply(self, similarity: Similarity) -> Grouping:
        """Group the layers of a measured model.

        Raises:
            UserError: see `group`.
        """
        return self.group(similarity.matrix(self.measure))
