"""The flags that say how layers are grouped by their similarity."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sharelora.flags.parser import Parser, positive
from sharelora.layer_groups import EXPANSIONS, FILE, MEASURES, METHODS, Grouping, GroupingChoice, read_similarity
from sharelora.support.errors import UserError

AUTO = "auto"  # measured by the run itself
TEXTS = 256  # the paper's
_ENDING = ".json"
# Flags and the fields of `GroupingChoice` that they give.
_FIELDS = {
    "grouping": "method",
    "similarity_threshold": "threshold",
    "similarity_measure": "measure",
    "distinct_layers": "distinct",
    "expand_rank": "expansion",
}
FLAGS = (*_FIELDS, "similarity_sample", "similarity_texts")


def add_choice_flags(group: Any) -> None:
    """Add the flags that make groups of similarities, to a parser or a group of its flags."""
    plain, add = GroupingChoice(), group.add_argument
    add("--grouping", default=plain.method, metavar="METHOD", help=f"of similar layers: {', '.join(METHODS)}")
    add(
        "--similarity_threshold", type=float, default=plain.threshold, metavar="S",
        help="similarity that layers of a group reach",
    )  # fmt: skip
    add("--similarity_measure", default=plain.measure, metavar="NAME", help=f"of similarity: {', '.join(MEASURES)}")
    add(
        "--distinct_layers", type=positive, metavar="N",
        help="instead of a threshold: so many layers remain distinct, with --grouping optimal",
    )  # fmt: skip
    add(
        "--expand_rank", default=plain.expansion, metavar="FORMULA",
        help=f"larger rank that groups leave room for: {', '.join(EXPANSIONS)}",
    )  # fmt: skip


def add_auto_flags(parser: Parser) -> None:
    """Add the flags of a command that can measure similarities itself."""
    group = parser.add_argument_group("similarity of layers, for --share_groups auto")
    group.add_argument("--similarity_sample", metavar="NAME", help="texts: a text file, a table, or a data set's name")
    group.add_argument("--similarity_texts", type=positive, default=TEXTS, metavar="N", help="texts that are drawn")


def choice_from(args: argparse.Namespace) -> GroupingChoice:
    """Return what the flags of `add_choice_flags` say.

    Raises:
        UserError: an unknown method or measure, or a threshold that the measure cannot have.
    """
    return GroupingChoice(**{field: getattr(args, flag) for flag, field in _FIELDS.items()})


def refuse_idle(args: argparse.Namespace) -> None:
    """Refuse flags of `add_choice_flags` where no similarities are to be grouped.

    Raises:
        UserError: the first of them that is not at its default.
    """
    if similarity_file(args) is not None:
        return
    default = GroupingChoice()
    for flag, field in _FIELDS.items():
        if getattr(args, flag) != getattr(default, field):
            raise UserError(
                f"found --{flag} {getattr(args, flag)} without similarities to group; need --share_groups FILE of "
                f"sharelora similarity, or {AUTO}; drop --{flag} or add that"
            )


def without_sharing(args: argparse.Namespace) -> argparse.Namespace:
    """Return the flags of the same adapter without sharing: LoRA's."""
    default = GroupingChoice()
    groups = {flag: getattr(default, field) for flag, field in _FIELDS.items()}
    rule = {"share": "none", "share_modules": None, "share_across": None, "share_groups": None}
    return argparse.Namespace(**{**vars(args), **groups, **rule})


def similarity_file(args: argparse.Namespace) -> Path | None:
    """Return the file of similarities that `--share_groups` means; None if it means something else.

    `auto` stands for the file that the run itself writes into its output folder, so that a run that goes on has the
    groups that it began with.
    """
    text = (args.share_groups or "").strip()
    if text == AUTO:
        return Path(getattr(args, "output_dir", ".")).expanduser() / FILE
    return Path(text).expanduser() if text.endswith(_ENDING) else None


def grouping_from(args: argparse.Namespace) -> Grouping | None:
    """Return the groups that the flags make of measured similarities; None if no file of these is meant.

    Raises:
        UserError: the file is missing or damaged, or no two layers are similar enough.
    """
    file = similarity_file(args)
    if file is None:
        return None
    if not file.is_file():
        raise UserError(
            f"found no {file}; need the similarity of the model's layers; run sharelora similarity --model DIR "
            f"--sample FILE --output DIR, and pass --share_groups DIR/{FILE}"
        )
    return choice_from(args).apply(read_similarity(file))


def check_model(args: argparse.Namespace, config: Any) -> None:
    """Refuse similarities of another model.

    Args:
        args: the command line.
        config: of the model, of transformers.

    Raises:
        UserError: they are of a model of another shape.
    """
    file = similarity_file(args)
    if file is not None and file.is_file():
        read_similarity(file).check(config, file)
