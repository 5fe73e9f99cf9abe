"""Benchmark commands: flags that several have, where data is found, and a measurement from its flags to its files."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import check_load
from benchmarks.harness.report import DOCUMENTS, RESULTS, ROOT, facts, save
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that describes itself by the first line of a module's docstring."""
    return argparse.ArgumentParser(description=(doc or "").splitlines()[0])


def add_measurement_flags(parser: argparse.ArgumentParser, quick: str) -> None:
    """Add the flags that all measurements of speed have.

    Args:
        parser: of the command.
        quick: help of --quick.
    """
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice unless given")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--save", nargs="?", const="", metavar="DIR", help="write files, to benchmarks/results or DIR")
    parser.add_argument("--force", action="store_true", help="save although others use the machine")


def add_comparison_flags(parser: argparse.ArgumentParser, name: str, document: str) -> None:
    """Add the flags that all comparisons of methods have.

    Args:
        parser: of the command.
        name: of the folder below `runs/`.
        document: of the file in `docs/results`.
    """
    add = parser.add_argument
    add("--data", help="folder of the data sets; SHARELORA_DATA or ../shared/data unless given")
    add("--seeds", type=int, default=3, help="how many")
    add("--jobs", type=int, default=1, help="worker processes of one thread each; 0: this process")
    add("--output", default=str(ROOT / "runs" / name), metavar="DIR", help="folder of the runs")
    add("--document", default=str(DOCUMENTS / document), metavar="FILE", help="the tables as Markdown")
    add("--quick", action="store_true", help="in small, to see that it works; writes only into DIR")


def fill(args: argparse.Namespace, defaults: Mapping[str, Any]) -> argparse.Namespace:
    """Set the flags that were not given to their defaults, which depend on --quick."""
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def flag_words(flags: Mapping[str, Any]) -> list[str]:
    """Return flags as the words of a command line."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def chosen_names(names: str | None, known: Mapping[str, Any] | tuple[str, ...], what: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list, or all known ones if it is empty.

    Args:
        names: the list.
        known: all names that exist.
        what: what they name, for the message.

    Raises:
        UserError: an unknown name.
    """
    chosen = tuple(name.strip() for name in names.split(",")) if names else tuple(known)
    for name in chosen:
        if name not in known:
            raise UserError(f"found the unknown {what} {name!r}; need some of {', '.join(known)}; separate with commas")
    return chosen


def counts_from(args: argparse.Namespace) -> dict[str, Any]:
    """Return the seeds, and the updates where they were given, as fields of an experiment.

    Raises:
        UserError: fewer than one.
    """
    if args.seeds < 1 or (args.updates is not None and args.updates < 1):
        raise UserError(f"found --seeds {args.seeds} and --updates {args.updates}; need at least 1 of each")
    return {"seeds": tuple(range(args.seeds)), **({} if args.updates is None else {"updates": args.updates})}


def set_data_folder(args: argparse.Namespace) -> None:
    """Tell the jobs where the data sets are; with --quick they make their own small ones."""
    neighbour = ROOT.parent / "shared" / "data"
    if args.quick:
        os.environ.pop("SHARELORA_DATA", None)
    elif args.data or ("SHARELORA_DATA" not in os.environ and neighbour.is_dir()):
        os.environ["SHARELORA_DATA"] = str(args.data or neighbour)


def output_folder(args: argparse.Namespace) -> Path:
    """Return the folder of the runs; those of --quick have their own folder below it."""
    return Path(args.output) / "quick" if args.quick else Path(args.output)


def document_path(args: argparse.Namespace) -> Path:
    """Return the file of the document, with --quick in the folder of the runs."""
    return output_folder(args) / Path(args.document).name if args.quick else Path(args.document)


def silence_libraries() -> None:
    """Drop a warning that nobody who runs a benchmark can act on."""
    # PEFT asks models for an attribute that transformers has renamed since.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


def begin_result(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """Set torch's threads, look at the load of the machine and return a result that says how it came about.

    Raises:
        UserError: others use the machine and the results are to be saved without --force.
    """
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    result = facts(kind, {**vars(args), "threads": torch.get_num_threads()})
    result["others_percent_before"] = check_load(args)
    return result


def measure_and_report(
    args: argparse.Namespace,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    markdown: Callable[[dict[str, Any]], str],
    draw: Callable[[dict[str, Any], Path], None] | None = None,
) -> None:
    """Measure, print the report, and with --save write it as JSON and Markdown.

    Args:
        args: the command line.
        measure: takes the command line and returns the result as JSON data.
        markdown: turns the result into a report.
        draw: draws the result, given the path of the JSON file.
    """
    silence_libraries()
    if args.save is not None:
        args.save = args.save or str(RESULTS)
        # Before minutes of measuring.
        require_writable(Path(args.save))
    result = measure(args)
    text = markdown(result)
    if args.save is not None:
        (file,) = save([Path(args.save)], result, text)
        if draw is not None:
            draw(result, file)
        print(f"wrote {file} and {file.with_suffix('.md').name} in the same folder")
    print(text)
