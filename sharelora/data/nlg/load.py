"""The rows of a data-to-text set, by its name or its path, whatever the schema.

A file is LoRA's `mr||ref` text, WebNLG's XML, or a table (csv, json, jsonl, parquet).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sharelora.data.find import KnownDataset, data_folder, find_file, find_split, unknown_name
from sharelora.data.folders import folder_splits, read_table
from sharelora.data.nlg.records import Record
from sharelora.data.nlg.schemas import records_of
from sharelora.data.nlg.webnlg import read_xml, xml_files
from sharelora.data.rows import read_rows, read_text
from sharelora.support.errors import UserError

# What a split may be called; the first name is the one used here.
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "dev", "validation", "eval", "val"),
    "test": ("test",),
}
# The same as `folders` calls them.
FOLDER_SPLITS = {"train": "train", "valid": "eval", "test": "test"}
SEPARATOR = "||"
_EXTENSIONS = tuple(
    kind + packed for kind in (".csv", ".txt", ".jsonl", ".json", ".xml", ".parquet", ".tsv") for packed in ("", ".gz")
)
_XML = "*.xml"


def _known(name: str, folders: tuple[str, ...], hub: Mapping[str, Any], **own: str) -> KnownDataset:
    """A set with these folders in the folder of local data; each has a split by its own name or by that of any set."""
    files = {
        split: tuple(
            f"{folder}/{stem}" for folder in folders for stem in ((own[split],) if split in own else ()) + words
        )
        for split, words in SPLITS.items()
    }
    return KnownDataset(
        name=name,
        # The main branches of these are scripts, which `datasets` no longer runs.
        hub={**hub, "revision": "refs/convert/parquet"},
        files=files,
        hub_splits=SPLITS,
        extensions=_EXTENSIONS,
        folder_of=_XML,
        instead="give the path of a file instead of the name",
    )


NLG_DATASETS: Mapping[str, KnownDataset] = {
    "e2e": _known(
        "e2e",
        ("e2e", "e2e/lora_format"),
        {"path": "tuetschek/e2e_nlg"},
        train="trainset",
        valid="devset",
        test="testset_w_refs",
    ),
    "webnlg": _known(
        "webnlg",
        ("webnlg", "webnlg2017", "webnlg_challenge_2017"),
        {"path": "webnlg-challenge/web_nlg", "name": "webnlg_challenge_2017"},
    ),
    "dart": _known(
        "dart",
        ("dart",),
        {"path": "Yale-LILY/dart"},
        train="dart-v1.1.1-full-train",
        valid="dart-v1.1.1-full-dev",
        test="dart-v1.1.1-full-test",
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
        name_or_path: `e2e`, `webnlg` or `dart`; or a file of any of their schemas, or a folder of such files, also
            one that `folders.folder_splits` reads.
        split: `train`, `valid` or `test`; a single file is what it is.
        data_root: folder of local data; by default the environment variable SHARELORA_DATA. Where there is one, the
            hub is not asked.
        need_text: every row must have a text; False also takes rows with only an input.
        load: replaces `datasets.load_dataset`.

    Raises:
        UserError: an unknown name or split, no data where it was looked for, or rows of another schema.
    """
    path = locate_nlg(name_or_path, split, data_root)
    if path is not None:
        return read_file(path, need_text, split)
    source = find_split(NLG_DATASETS[str(name_or_path)], canonical(split), load=load)
    return records_of(source.rows(), source.origin, need_text)


def locate_nlg(name_or_path: str | Path, split: str, data_root: Path | None = None) -> Path | None:
    """Find the file (or folder of XML files) of a split; None if it is on the hub.

    Raises:
        UserError: an unknown name or split, or nothing where it was looked for.
    """
    split, name = canonical(split), str(name_or_path)
    if name in NLG_DATASETS:
        folder = data_folder(data_root)
        return None if folder is None else find_split(NLG_DATASETS[name], split, folder).file
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path, split)
    if path.suffix or "/" in name:
        sets = ", ".join(NLG_DATASETS)
        raise UserError(f"{name} not found; need a file of rows there, or one of {sets}; check the path")
    raise unknown_name(name, NLG_DATASETS, "data set", "or give the path of a file", "a file")


def _in_folder(path: Path, split: str) -> Path:
    """The file of a split in a folder that was given by its path, or the folder itself if `read_file` is to look in it.

    A file is named as in any known set. A folder of XML is read whole.
    """
    names = dict.fromkeys(Path(stem).name for known in NLG_DATASETS.values() for stem in known.files[split])
    # A set's own names first, as in a folder of data.
    file = find_file(path, sorted(names, key=lambda name: name in SPLITS[split]), _EXTENSIONS, _XML)
    if file is None and not any(path.glob(_XML)):
        need = f"{path} has no file for {split}; need one such as {split}.jsonl in it; check the path"
        try:
            found = folder_splits(path)
        except UserError as error:
            raise UserError(f"{need} ({error})") from error
        if FOLDER_SPLITS[split] not in found:
            raise UserError(need)
    return file or path


def canonical(split: str) -> str:
    """The name of a split here: `dev` and `validation` are `valid`.

    Raises:
        UserError: an unknown split.
    """
    for name, words in SPLITS.items():
        if split.lower() in words:
            return name
    raise UserError(f"found the split {split}; need one of {', '.join(SPLITS)}; change it")


def read_file(path: str | Path, need_text: bool = True, split: str = "train") -> list[Record]:
    """Read every row of a file, of a folder of XML files, or of a split of another folder.

    Args:
        path: a file, also gzipped, or a folder.
        need_text: every row must have a text; without, rows with only an input are read too.
        split: `train`, `valid` or `test`, of a folder without XML.

    Raises:
        UserError: it is missing, damaged, empty or of another form; the line, row or entry is named.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        files = xml_files(path)
        if not files:
            return records_of(read_table(path, FOLDER_SPLITS[canonical(split)]), str(path), need_text)
        return [record for file in files for record in read_xml(file, need_text)]
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
            fault = f"{len(parts) - 1} separators {SEPARATOR}"
            if len(parts) == 2:
                fault = "an empty text" if parts[0] else "an empty input"
            raise UserError(f"{path} line {number} has {fault}; need input||text; repair the line")
        records.append(Record(parts[0], parts[1]))
    if not records:
        raise UserError(f"{path} is empty; need a line input||text for each text; check the file")
    return records
