"""What every evaluation command has in common: which model with which adapter, its flags, and what it leaves."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sharelora.evaluation.sampling import spread
from sharelora.flags.parser import Parser, positive, tiny_environment

logger = logging.getLogger(__name__)
Item = TypeVar("Item")

PREDICTIONS = "predictions.jsonl"
# How many items a tiny run asks, unless --limit says otherwise.
TINY_LIMIT = 64
BARE = "none"  # --adapter none: the base model alone


@dataclass(frozen=True)
class Subject:
    """The model that is examined.

    Args:
        base: folder or hub id of the base model, or of a merged one.
        adapter: the adapter's folder; None for the base alone.
    """

    base: str
    adapter: Path | None

    def __str__(self) -> str:
        return f"{self.base}, {self.adapter or 'no adapter'}"

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this model from others: the base's name, and the checksum of the adapter's weights."""
        from sharelora.support.files import sha256
        from sharelora.tuner.files import WEIGHTS_FILE

        weights = None if self.adapter is None else sha256(self.adapter / WEIGHTS_FILE)
        return {"base": Path(self.base).name, "adapter_sha256": weights}


def add_flags(parser: Parser, output: str, items: str) -> None:
    """Add the flags that every command has.

    Args:
        parser: of the command.
        output: the default folder for its files.
        items: what it asks, for the help: questions, tasks.
    """
    add = parser.add_argument
    add("--model", help="folder or hub id of the base model; by default the one that the adapter was trained on")
    add("--adapter", help="an adapter, of this project or of plain PEFT, or a run's folder; none: the base alone")
    add("--output", default=output, help=f"folder for {PREDICTIONS} and result.json")
    add("--limit", type=positive, help=f"ask this many {items} in all, chosen by --seed")
    add("--seed", type=int, default=0, help="of the choice that --limit makes, and of whatever is drawn")
    add("--batch_size", default="auto", help=f"{items} at once, or auto; it changes the speed alone")
    add("--max_length", type=positive, help="most tokens that the model reads, if less than its context")
    add("--data_root", help="folder of data sets; by default SHARELORA_DATA, else the hub")
    add("--bits", type=int, choices=(4, 8, 16, 32), default=16, help="precision of the base; 4 and 8 quantise it")
    add("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto", help="of weights, or of 4-bit arithmetic")
    parser.switch("--tiny", tiny_environment(), help=f"use the project's own small model and data, and few {items}")
    parser.switch("--dry_run", help=f"find model, adapter and {items}, write nothing, and stop before loading weights")


def start(parser: Parser, argv: Sequence[str] | None, run: Callable[[argparse.Namespace, float], None]) -> None:
    """Read the command line, set up what is printed, and run.

    Args:
        parser: of the command.
        argv: words; None means the process's own.
        run: gets the flags, and when the command began by `time.monotonic`.
    """
    began = time.monotonic()
    # First of all: a mistake in it is said before anything slow is imported.
    args = parser.parse(argv)
    from sharelora.flags import program

    program.start(lambda: args, lambda args: run(args, began))


def locate(args: argparse.Namespace, tiny: str = "llama") -> Subject:
    """Find the base model and the adapter.

    Args:
        args: the command line.
        tiny: kind of the small model that --tiny means.

    Raises:
        UserError: one is missing, or neither is named.
    """
    from sharelora.models.adapter import recorded_base, resolve_adapter
    from sharelora.models.load import resolve_model
    from sharelora.support.errors import UserError

    named = args.adapter if (args.adapter or BARE).lower() != BARE else None
    adapter = None if named is None else resolve_adapter(named)
    recorded = None if adapter is None else recorded_base(adapter)
    base = args.model or recorded
    if base is None and adapter is None and args.tiny:
        from sharelora.tiny import ensure_tiny

        return Subject(str(ensure_tiny(tiny)), None)
    if base is None:
        what = "an adapter that does not name its base" if adapter else "neither --model nor --adapter"
        raise UserError(f"found {what}; need a base model; add --model DIR")
    if recorded and Path(recorded).name != Path(base).name:
        logger.info("note: the adapter says that it was trained on %s; it is now put on %s", recorded, base)
    return Subject(resolve_model(base), adapter)


def data_root(args: argparse.Namespace) -> Path | None:
    """Return the folder of data sets that the flags mean; None leaves it to the environment and the hub."""
    if args.data_root is None and args.tiny and not os.environ.get("SHARELORA_DATA"):
        from sharelora.tiny import tiny_data

        return tiny_data()
    return None if args.data_root is None else Path(args.data_root)


def count(args: argparse.Namespace) -> int | None:
    """Return how many items the flags ask for; None for all."""
    return args.limit or (TINY_LIMIT if args.tiny else None)


def chosen(
    args: argparse.Namespace, items: Sequence[Item], group: Callable[[Item], str] = lambda item: ""
) -> list[Item]:
    """Choose the items that the flags ask for, in their order and evenly from all groups.

    A larger choice contains every smaller one.

    Args:
        args: the command line.
        items: all there are.
        group: names an item's group; by default all items are one.
    """
    return [items[place] for place in spread([group(item) for item in items], count(args), args.seed)]


def room(args: argparse.Namespace, subject: Subject) -> int | None:
    """Return the most tokens that the model may read; None if nothing bounds them."""
    from transformers import AutoConfig

    from sharelora.evaluation.multiple_choice import context_length

    limits = [context_length(AutoConfig.from_pretrained(subject.base)), args.max_length]
    return min((value for value in limits if value is not None), default=None)


def load_model(args: argparse.Namespace, subject: Subject, load: Callable[..., Any] | None = None) -> Any:
    """Load the base and put the adapter on it.

    Args:
        args: the command line.
        subject: base and adapter.
        load: loads the base; by default `load_base`, whose options it takes.

    Raises:
        UserError: see `load_base` and `load_adapter`.
    """
    import torch

    from sharelora.models.adapter import load_adapter
    from sharelora.models.load import load_base

    devices = "auto" if torch.cuda.is_available() else None
    base = (load or load_base)(subject.base, bits=args.bits, dtype=args.dtype, device_map=devices)
    return base if subject.adapter is None else load_adapter(base, subject.adapter)


def write_rows(args: argparse.Namespace, rows: Iterable[Mapping[str, Any]], name: str = PREDICTIONS) -> Path:
    """Write one record per item into a file in `args.output`, whole or not at all; return the file."""
    from sharelora.support.files import write_json_lines

    path = Path(args.output) / name
    write_json_lines(path, rows)
    return path


def write(
    args: argparse.Namespace,
    kind: str,
    subject: Subject | None,
    model: Any,
    rows: Iterable[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    seconds: float,
) -> None:
    """Write one record per item and the result, each whole or not at all, into `args.output`.

    Args:
        args: the command line.
        kind: of result.
        subject: what was examined; None where that is not known, as of texts in a file.
        model: the same, loaded; its plan goes into the result. None where nothing had to be loaded: then the adapter's
            own file says it.
        rows: the records.
        metrics: every number.
        seconds: wall clock time of the whole command.
    """
    from sharelora.reporting.environment import peak_memory
    from sharelora.reporting.results import plan_facts, write_result

    folder, predictions = Path(args.output), write_rows(args, rows)
    base, adapter = (None, None) if subject is None else (subject.base, subject.adapter)
    write_result(
        folder,
        kind,
        {**vars(args), "model": base, "adapter": adapter and str(adapter)},
        {**metrics, "peak_memory_bytes": peak_memory()},
        _saved_plan(adapter) if model is None else plan_facts(model),
        {"predictions": predictions, **({} if adapter is None else {"adapter": adapter})},
        seconds,
        model=base,
    )


def _saved_plan(adapter: Path | None) -> dict[str, Any]:
    """What an adapter's file says about its plan; nothing for a plain LoRA or without an adapter."""
    from sharelora import ShareLoraConfig, SharingPlan
    from sharelora.reporting.results import describe_plan
    from sharelora.support.files import read_json
    from sharelora.tuner.config import CONFIG_FILE

    saved = {} if adapter is None else read_json(adapter / CONFIG_FILE).get("plan")
    if not saved:
        return {}
    config = ShareLoraConfig.from_pretrained(str(adapter))
    return describe_plan(SharingPlan.from_json(saved), None if config.share_plan is not None else config.rule())
