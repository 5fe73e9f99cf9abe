"""Find a data-to-text set by name or path: a local file or folder, or the hub."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.hub import load_from_hub
from sharelora.data.nlg.forms import records_of
from sharelora.data.nlg.records import Record
from sharelora.data.nlg.webnlg import read_xml, xml_files
from sharelora.data.readers import read_rows, read_text
from sharelora.data.registry import DATA_FOLDER
from sharelora.support.errors import UserError

WAYS = f"set {DATA_FOLDER}=/a/folder/of/data, give the path of a file instead of the name, or add --tiny"
_ENDINGS = (".csv", ".txt", ".jsonl", ".json", ".xml", ".parquet")
# What a split may be called; the first name is the one used here.
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "dev", "validation", "eval", "val"),
    "test": ("test",),
}
_CONVERTED = "refs/convert/parquet"  # their main branches are scripts, which `datasets` no longer runs


@dataclass(frozen=True)
class KnownSet:
    """A set that is known by name.

    Args:
        folders: where it may lie in a folder of data, tried in this order.
        files: split -> names of files without their endings, before those that every set may use (`SPLITS`).
        hub: its name on the hub, the arguments of `datasets.load_dataset`.
    """

    folders: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    hub: Mapping[str, Any]


KNOWN: Mapping[str, KnownSet] = {
    "e2e": KnownSet(
        ("e2e", "e2e/lora_format"),
        {"train": ("trainset",), "valid": ("devset",), "test": ("testset_w_refs",)},
        {"path": "tuetschek/e2e_nlg", "revision": _CONVERTED},
    ),
    "webnlg": KnownSet(
        ("webnlg", "webnlg2017", "webnlg_challenge_2017"),
        {},
        {"path": "webnlg-challenge/web_nlg", "name": "webnlg_challenge_2017", "revision": _CONVERTED},
    ),
    "dart": KnownSet(
        ("dart",),
        {split: (f"dart-v1.1.1-full-{word}",) for split, word in zip(SPLITS, ("train", "dev", "test"), strict=True)},
        {"path": "Yale-LILY/dart", "revision": _CONVERTED},
    ),
}


def load_nlg(
    name_or_path: str | Path,
    split: str = "train",
    data_root: Path | None = None,
    *,
    need_text: bool = True,
    load: Callable[..., Any] | None = None,
) -> list[Record]:
    """Read the rows of a split.

    Args:
        name_or_path: `e2e`, `webnlg` or `dart`; or a file in any of their forms, or a folder of such files.
        split: `train`, `valid` or `test`; a single file is what it is.
        data_root: folder of local data; by default the environment variable SHARELORA_DATA. Where there is one, the
            hub is not asked.
        need_text: every row must have a text; False also takes inputs alone.
        load: replaces `datasets.load_dataset`.

    Raises:
        UserError: an unknown name or split, no data where it was looked for, or rows of another form.
    """
    place = locate_nlg(name_or_path, split, data_root)
    if place is not None:
        return read_file(place, need_text)
    known, name = KNOWN[str(name_or_path)], str(name_or_path)
    found = load_from_hub(known.hub, name, WAYS, load)
    word = next((word for word in SPLITS[canonical(split)] if word in found and len(found[word])), None)
    if word is None:
        raise UserError(f"data set {name} ({known.hub['path']}) has no rows for {split}; {WAYS}")
    return records_of(found[word].to_list(), f"{known.hub['path']} {word}", need_text)


def locate_nlg(name_or_path: str | Path, split: str, data_root: Path | None = None) -> Path | None:
    """Find the file (or folder of XML files) of a split; None if it is on the hub.

    Raises:
        UserError: an unknown name or split, or nothing where it was looked for.
    """
    split, name = canonical(split), str(name_or_path)
    if name in KNOWN:
        known = KNOWN[name]
        root = data_root or (Path(os.environ[DATA_FOLDER]) if os.environ.get(DATA_FOLDER) else None)
        return None if root is None else _in_folders([root / folder for folder in known.folders], known, split, name)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        anywhere = [stem for known in KNOWN.values() for stem in known.files.get(split, ())]
        found = _first([path], (*anywhere, *SPLITS[split]))
        if found is None and any(path.glob("*.xml")):
            return path
        if found is None:
            raise UserError(f"{path} has no file for {split}; need one such as {split}.jsonl in it; check the path")
        return found
    raise _unknown(name)


def canonical(split: str) -> str:
    """The name of a split here: `dev` and `validation` are `valid`.

    Raises:
        UserError: there is no such split.
    """
    for name, words in SPLITS.items():
        if split.lower() in words:
            return name
    raise UserError(f"found the split {split}; need one of {', '.join(SPLITS)}; change it")


def _in_folders(folders: list[Path], known: KnownSet, split: str, name: str) -> Path:
    stems = (*known.files.get(split, ()), *SPLITS[split])
    found = _first(folders, stems)
    if found is None:
        raise UserError(
            f"no data set {name} for {split} in {', '.join(map(str, folders))}: looked for {', '.join(stems)} as "
            f"{', '.join(_ENDINGS)} (or .gz) or a folder of XML files; put it there, or {WAYS}"
        )
    return found


def _first(folders: Iterable[Path], stems: Iterable[str]) -> Path | None:
    """The first file with one of these names, or the first folder with XML files in it."""
    stems = tuple(stems)
    for folder in folders:
        for stem in stems:
            files = [folder / f"{stem}{ending}{packed}" for ending in _ENDINGS for packed in ("", ".gz")]
            found = next((file for file in files if file.is_file()), None)
            if found is None and (folder / stem).is_dir() and xml_files(folder / stem):
                found = folder / stem
            if found is not None:
                return found
    return None


def _unknown(name: str) -> UserError:
    path = Path(name)
    if path.suffix or "/" in name:
        return UserError(f"{name} not found; need a file of rows there, or one of {', '.join(KNOWN)}; check the path")
    near = difflib.get_close_matches(name.lower(), KNOWN, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else "or give the path of a file"
    return UserError(f"found unknown data set {name}; need one of {', '.join(KNOWN)}, or a file; {advice}")


# Read a file of rows, whatever its form: LoRA's `mr||ref` text, XML, or a table (csv, json, jsonl, parquet).


SEPARATOR = "||"


def read_file(path: str | Path, need_text: bool = True) -> list[Record]:
    """Read every row of a file, or of a folder of XML files.

    Args:
        path: a file, also gzipped.
        need_text: every row must have a text; without, inputs alone are read too.

    Raises:
        UserError: it is missing, damaged, empty or of another form; the line, row or entry is named.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        records = [record for file in xml_files(path) for record in read_xml(file, need_text)]
        if not records:
            raise UserError(f"{path} has no XML files; need those of a split of WebNLG; check the path")
        return records
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "txt":
        return read_lines(path, need_text)
    return list(read_xml(path, need_text)) if kind == "xml" else records_of(read_rows(path), str(path), need_text)


def read_lines(path: Path, need_text: bool = True) -> list[Record]:
    """Read LoRA's text form, one `mr||ref` a line; blank lines count as nothing.

    Raises:
        UserError: a line of another form; its number is named.
    """
    records = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        parts = [part.strip() for part in line.split(SEPARATOR)]
        if parts == [""]:
            continue
        if len(parts) == 1 and not need_text:
            parts.append("")
        if len(parts) != 2 or not parts[0] or (need_text and not parts[1]):
            raise UserError(f"{path} line {number} {_problem(parts)}; need input||text; repair the line")
        records.append(Record(parts[0], parts[1]))
    if not records:
        raise UserError(f"{path} is empty; need a line input||text for each text; check the file")
    return records


def _problem(parts: list[str]) -> str:
    if len(parts) != 2:
        return f"has {len(parts) - 1} separators {SEPARATOR}"
    return "has an empty text" if parts[0] else "has an empty input"
