"""References and predictions of generated text, from files in the forms of upstream's scripts or from a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.nlg import Group
from sharelora.data.rows import read_text
from sharelora.support.errors import UserError

NUMBERED = "reference"


@dataclass(frozen=True)
class TestSet:
    """Segments to score.

    Args:
        hypotheses: one text each.
        references: one or more texts each.
        seen: whether a segment's category is one of the training set; None where that is not known.
    """

    __test__ = False  # not a test, whatever its name

    hypotheses: list[str]
    references: list[list[str]]
    seen: list[bool] | None = None

    def part(self, seen: bool) -> TestSet:
        """Return the segments of seen or of unseen categories."""
        part = [index for index, value in enumerate(self.seen or ()) if value is seen]
        return TestSet([self.hypotheses[index] for index in part], [self.references[index] for index in part])


def read_lines(path: Path) -> list[str]:
    """Read one text per line, without spaces at either end; an empty line is an empty text.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    # Only the newline ends a line: text may hold other characters at which `splitlines` breaks.
    lines = read_text(path).split("\n")
    return [line.strip() for line in (lines if lines[-1] else lines[:-1])]


def read_blocks(path: Path) -> list[list[str]]:
    """Read E2E's form of references: one per line, an empty line after those of each input.

    Raises:
        UserError: two empty lines follow each other, or the file has no text.
    """
    lines = read_lines(path)
    while lines and not lines[-1]:
        lines.pop()
    blocks: list[list[str]] = [[]]
    for number, line in enumerate(lines, 1):
        if line:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
        else:
            raise UserError(f"{path} has no reference before the empty line {number}; need one; repair the file")
    if not blocks[0]:
        raise UserError(f"{path} has no references; need one a line and an empty line between inputs; check the file")
    return blocks


def read_numbered(path: Path) -> list[list[str]]:
    """Read WebNLG's form of references: files reference0, reference1, ..., line n of each for input n.

    Args:
        path: the folder of these files, or what their names begin with, the folder included.

    Raises:
        UserError: there are none, one is missing in between, or they differ in their number of lines.
    """
    start = path / NUMBERED if path.is_dir() else path
    files = start.parent.iterdir() if start.parent.is_dir() else ()
    matches = [(re.fullmatch(re.escape(start.name) + r"(\d+)", file.name), file) for file in files]
    numbered = {int(match[1]): file for match, file in matches if match}
    if not numbered or sorted(numbered) != list(range(len(numbered))):
        have = ", ".join(numbered[number].name for number in sorted(numbered)) or "none"
        raise UserError(f"found {have} as references; need {start}0, {start}1, ... without a gap; check --references")
    columns = [read_lines(numbered[number]) for number in range(len(numbered))]
    for number, column in enumerate(columns):
        if len(column) != len(columns[0]):
            raise UserError(
                f"{numbered[number]} has {len(column)} lines but {numbered[0].name} has {len(columns[0])}; need equal "
                "numbers; write them again"
            )
    return [list(texts) for texts in zip(*columns, strict=True)]


def read_decoded(path: Path, groups: Sequence[Group], tokenizer: Any) -> list[str]:
    """Read decoded token ids and return one text per distinct input.

    Args:
        path: JSON lines of `id`, the row, and `predict`, token ids.
        groups: the distinct inputs with their rows.
        tokenizer: turns ids into text.

    Returns:
        Of several predictions for one input the last, as upstream's decode command takes them.

    Raises:
        UserError: a malformed line, a row that the data set does not have, an id outside the vocabulary, or an input
            without a prediction.
    """
    rows = sum(len(group.rows) for group in groups)
    # torch takes a second to load, and scoring text needs none of it.
    from sharelora.data.nlg.token_files import read_predictions, text_of

    by_row = read_predictions(path, len(tokenizer), rows)
    predictions = [[by_row[row] for row in group.rows if row in by_row] for group in groups]
    missing = [group for group, predicted in zip(groups, predictions, strict=True) if not predicted]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} of {len(groups)} inputs, the first is row {missing[0].rows[0]} "
            f"({missing[0].context[:60]!r}); need a prediction for each; finish the decoding first"
        )
    # One line each, whatever white space a text has in it.
    return [" ".join(text_of(tokenizer, predicted[-1]).split()) for predicted in predictions]
