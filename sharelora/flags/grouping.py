"""Groups of similar layers on the command line: the flags, and the measurement that they name."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sharelora.flags.parser import Parser, number, positive
from sharelora.layer_groups.grouping import EXPANSIONS, NONE, Grouping
from sharelora.layer_groups.settings import METHODS, GroupingSettings
from sharelora.layer_groups.similarity import FILE, MEASURES, Similarity, read_similarity
from sharelora.support.errors import UserError

AUTO = "auto"  # measured by the run itself
TEXTS = 256  # the paper's
_ENDING = ".json"
# Flags and the fields of `GroupingSettings` that they give.
_FIELDS = {
    "grouping": "method",
    "similarity_threshold": "threshold",
    "similarity_measure": "measure",
    "distinct_layers": "distinct",
}
FLAGS = (*_FIELDS, "expand_rank", "similarity_sample", "similarity_texts")


def add_choice_flags(group: Any) -> None:
    """Add the flags that group layers by their similarity, to a parser or a group of its flags."""
    plain, add = GroupingSettings(), group.add_argument
    add(
        "--grouping",
        default=plain.method,
        metavar="METHOD",
        help=f"of grouping: {', '.join(METHODS)}",
    )
    add(
        "--similarity_threshold", type=number, default=plain.threshold, metavar="S",
        help="least similarity of the layers in a group",
    )  # fmt: skip
    add(
        "--similarity_measure",
        default=plain.measure,
        metavar="NAME",
        help=f"of similarity: {', '.join(MEASURES)}",
    )
    add(
        "--distinct_layers", type=positive, metavar="N",
        help="number of distinct layers to keep instead of a threshold, with --grouping optimal",
    )  # fmt: skip
    add(
        "--expand_rank", default=NONE, metavar="FORMULA",
        help=f"formula of the larger rank that groups leave room for: {', '.join(EXPANSIONS)}",
    )  # fmt: skip


def add_auto_flags(parser: Parser) -> None:
    """Add the flags of a command that can measure similarities itself."""
    group = parser.add_argument_group("similarity of layers, for --share_groups auto")
    group.add_argument("--similarity_sample", metavar="NAME", help="texts: a text file, a table, or a data set's name")
    group.add_argument("--similarity_texts", type=positive, default=TEXTS, metavar="N", help="number of texts to draw")


def grouping_choice(args: argparse.Namespace) -> GroupingSettings:
    """Return what the flags of `add_choice_flags` say.

    Raises:
        UserError: an unknown method or measure, or a threshold that the measure cannot have.
    """
    return GroupingSettings(**{field: getattr(args, flag) for flag, field in _FIELDS.items()})


@dataclass(frozen=True)
class MeasuredGroups:
    """Groups of layers that follow from a measurement of the base.

    Attributes:
        file: where the similarities are, or will be written.
        choice: how they are turned into groups.
        similarity: what `file` holds; None until the run has measured it.
    """

    file: Path
    choice: GroupingSettings
    similarity: Similarity | None

    @cached_property
    def grouping(self) -> Grouping:
        """The groups.

        Raises:
            UserError: nothing has been measured yet, or no two layers are similar enough.
        """
        if self.similarity is None:
            raise UserError(
                f"found no {self.file}; need the similarity of the model's layers; run sharelora similarity --model "
                f"DIR --sample FILE --output DIR, and pass --share_groups DIR/{FILE}"
            )
        return self.choice.apply(self.similarity)

    def check(self, config: Any) -> None:
        """Refuse similarities of another model.

        Args:
            config: the model's, of transformers.

        Raises:
            UserError: they are of a model of another shape.
        """
        if self.similarity is not None:
            self.similarity.check(config, self.file)


def measured_groups(args: argparse.Namespace, measures: bool) -> MeasuredGroups | None:
    """Read the measurement that `--share_groups` names; None if it names layers, or nothing.

    `auto` means the file that a run writes into its output folder, so that a resumed run keeps its groups.

    Args:
        args: flags of `add_choice_flags`, and of `add_auto_flags` if the command measures.
        measures: whether the command measures by itself for `auto`; the result then has no similarities yet.

    Raises:
        UserError: a flag about similarities without any, no texts to measure them on, a damaged file, or no two
            layers that are similar enough.
    """
    text = (args.share_groups or "").strip()
    auto = text == AUTO
    if measures and auto and args.similarity_sample is None:
        raise UserError(f"found --share_groups {AUTO}; need texts to compare layers on; pass --similarity_sample FILE")
    if measures and not auto and args.similarity_sample is not None:
        raise UserError(f"found --similarity_sample without --share_groups {AUTO}; need both or neither; drop it")
    if not auto and not text.endswith(_ENDING):
        _refuse_idle(args)
        return None
    file = Path(getattr(args, "output_dir", ".")) / FILE if auto else Path(text)
    file, pending = file.expanduser(), measures and auto
    similarity = read_similarity(file) if file.is_file() and not pending else None
    measured = MeasuredGroups(file, grouping_choice(args), similarity)
    if not pending:
        _ = measured.grouping  # fails without groups, before anything is loaded
    return measured


def _refuse_idle(args: argparse.Namespace) -> None:
    default = GroupingSettings()
    for flag, field in _FIELDS.items():
        if getattr(args, flag) != getattr(default, field):
            raise UserError(
                f"found --{flag} {getattr(args, flag)} without similarities to group; need --share_groups FILE of "
                f"sharelora similarity, or {AUTO}; drop --{flag} or add that"
            )
