"""Score a language model, with or without an adapter, on MMLU.

    python eval/mmlu.py --model DIR --adapter runs/a --shots 5 --split test --output runs/a_mmlu

Writes `predictions.jsonl`, one record per question, and `result.json`. `--tiny` runs the same on the project's own
small model and data.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharelora.commandline import Parser, boolean, positive

if TYPE_CHECKING:
    from sharelora.evaluation.mmlu import Exam, Report

logger = logging.getLogger("sharelora.eval.mmlu")

PREDICTIONS = "predictions.jsonl"
TINY_LIMIT = 64


def parser() -> Parser:
    """Every flag of this command."""
    made = Parser("mmlu.py", "Accuracy on MMLU, and every answer with its log-probabilities.")
    add = made.add_argument
    add("--model", help="folder or hub id of the base model; by default the one that the adapter was trained on")
    add("--adapter", help="an adapter, of this project or of plain PEFT, or a run's folder; none: the base alone")
    add("--output", default="runs/mmlu", help="folder for predictions.jsonl and result.json")
    add("--shots", type=int, choices=range(6), default=5, metavar="0-5", help="solved examples before every question")
    add("--split", choices=("dev", "val", "test"), default="test", help="questions to ask")
    add("--prompt", choices=("qlora", "original", "lm_eval"), default="qlora", help="how questions are written down")
    add("--limit", type=positive, help="ask this many questions in all, chosen by --seed, evenly over the subjects")
    add("--seed", type=int, default=0, help="of the choice that --limit makes")
    add("--batch_size", default="auto", help="questions at once, or auto")
    add("--max_length", type=positive, help="most tokens of a prompt, if less than the model's context")
    add("--data_root", help="folder with mmlu/{dev,val,test}.jsonl; by default SHARELORA_DATA, else the hub")
    add("--bits", type=int, choices=(4, 8, 16, 32), default=16, help="precision of the base; 4 and 8 quantise it")
    add("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto", help="of weights, or of 4-bit arithmetic")
    made.switch("--skip_too_long", help="leave out, and count, questions that are too long even without examples")
    made.switch("--no_cache", help="read every prompt whole instead of encoding the examples once")
    made.switch("--tiny", _tiny_by_default(), help="use the project's own small model and data, and few questions")
    made.switch("--dry_run", help="find model, adapter and questions, write nothing, and stop before loading weights")
    return made


def _tiny_by_default() -> bool:
    return boolean(os.environ.get("SHARELORA_TINY") or "false")


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    began = time.monotonic()
    args = parser().parse(argv)
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
    logging.getLogger("sharelora").setLevel(logging.INFO)
    # PEFT asks models for an attribute that transformers has renamed since.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    run(args, began)


def run(args: argparse.Namespace, began: float) -> None:
    """Check, load, answer, write.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    from transformers.utils.logging import disable_progress_bar

    from sharelora.evaluation.mmlu import examine
    from sharelora.evaluation.progress import Progress
    from sharelora.files import require_writable

    disable_progress_bar()
    place, adapter = locate(args)
    exam = load_questions(args, place)
    if args.dry_run:
        logger.info(
            "dry run: %s, %s, %d questions; nothing was written", place, adapter or "no adapter", len(exam.questions)
        )
        return
    folder = require_writable(args.output)
    model = load_model(args, place, adapter)
    report = examine(model, exam, args.batch_size, not args.no_cache, Progress("MMLU"))
    write(args, folder, model, place, adapter, report, began)
    print(table(args, report))
    print(f"wrote {folder}")


def locate(args: argparse.Namespace) -> tuple[str, Path | None]:
    """Find the base model and the adapter.

    Returns:
        The base's folder or hub id, and the adapter's folder, None for the base alone.

    Raises:
        UserError: one is missing, or neither is named.
    """
    from sharelora.attach import locate_adapter, recorded_base
    from sharelora.errors import UserError
    from sharelora.models import locate_model

    named = args.adapter if (args.adapter or "none").lower() != "none" else None
    adapter = None if named is None else locate_adapter(named)
    recorded = None if adapter is None else recorded_base(adapter)
    base = args.model or recorded
    if base is None and adapter is None and args.tiny:
        from sharelora.tiny import ensure_tiny

        return str(ensure_tiny("llama")), None
    if base is None:
        what = "an adapter that does not name its base" if adapter else "neither --model nor --adapter"
        raise UserError(f"found {what}; need a base model; add --model DIR")
    if recorded and Path(recorded).name != Path(base).name:
        logger.info("note: the adapter says that it was trained on %s; it is now put on %s", recorded, base)
    return locate_model(base), adapter


def load_questions(args: argparse.Namespace, place: str) -> Exam:
    """Read the questions and write prompts that fit the model."""
    from transformers import AutoConfig

    from sharelora.evaluation.mmlu import load_exam
    from sharelora.evaluation.multiple_choice import context_length
    from sharelora.models import load_tokenizer

    root = args.data_root
    if root is None and args.tiny and not os.environ.get("SHARELORA_DATA"):
        from sharelora.tiny import tiny_data

        root = tiny_data()
    limits = [context_length(AutoConfig.from_pretrained(place)), args.max_length]
    limit = min((value for value in limits if value is not None), default=None)
    count = args.limit or (TINY_LIMIT if args.tiny else None)
    return load_exam(
        load_tokenizer(place),
        args.split,
        args.shots,
        limit,
        args.prompt,
        count,
        args.seed,
        root,
        leave_out=args.skip_too_long,
    )


def load_model(args: argparse.Namespace, place: str, adapter: Path | None) -> Any:
    """Load the base and put the adapter on it."""
    import torch

    from sharelora.attach import attach_adapter
    from sharelora.models import load_base

    devices = "auto" if torch.cuda.is_available() else None
    base = load_base(place, bits=args.bits, dtype=args.dtype, device_map=devices)
    return base if adapter is None else attach_adapter(base, adapter)


def write(
    args: argparse.Namespace,
    folder: Path,
    model: Any,
    place: str,
    adapter: Path | None,
    report: Report,
    began: float,
) -> None:
    """Write the answers and the result, each whole or not at all."""
    from sharelora.environment import peak_memory
    from sharelora.files import write_text
    from sharelora.results import write_result
    from sharelora.training.model import plan_facts

    predictions = folder / PREDICTIONS
    write_text(predictions, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in report.rows()))
    write_result(
        folder,
        "mmlu",
        {**vars(args), "model": place, "adapter": None if adapter is None else str(adapter)},
        {**report.metrics(), "peak_memory_bytes": peak_memory()},
        plan_facts(model),
        {"predictions": predictions, **({"adapter": adapter} if adapter is not None else {})},
        time.monotonic() - began,
        model=place,
    )


def table(args: argparse.Namespace, report: Report) -> str:
    """The result in a few lines."""
    found = report.metrics()
    rows = [(name, score["accuracy"], score["stderr"], score["count"]) for name, score in found["categories"].items()]
    rows += [
        ("all questions", found["accuracy"], found["accuracy_stderr"], found["questions"]),
        ("mean over subjects", found["accuracy_macro"], found["accuracy_macro_stderr"], len(found["subjects"])),
        ("guessing", found["chance"], None, found["questions"]),
    ]
    lost = sum(found["left_out"].values())
    title = f"MMLU {args.split}, {args.shots}-shot, {args.prompt} prompt"
    lines = [title + (f"; {lost} too long questions NOT ASKED" if lost else "")]
    lines += [f"  {name:<20}{mean:8.4f} {_error(error)}{count:8,}" for name, mean, error, count in rows]
    saved = found["prompt_tokens"] / max(1, found["tokens"])
    speed = f"{found['tokens']:,} tokens read for {found['prompt_tokens']:,} of prompts ({saved:.1f}x fewer)"
    return "\n".join([*lines, f"  {speed} in {found['seconds']:.1f} s"])


def _error(error: float | None) -> str:
    return " " * 9 if error is None else f"± {error:.4f} "


if __name__ == "__main__":
    from sharelora.errors import run_main

    run_main(main)
