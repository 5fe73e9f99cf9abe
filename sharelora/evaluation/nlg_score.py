"""Score generated text: E2E with five metrics, WebNLG (all, seen and unseen categories) and DART with three."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.nlg import grouped, load_nlg
from sharelora.evaluation import command
from sharelora.evaluation.nlg_texts import TestSet, read_blocks, read_decoded, read_lines, read_numbered
from sharelora.flags.parser import Parser, positive, tiny_environment
from sharelora.metrics import java
from sharelora.metrics.nlg import E2E, LOWER_IS_BETTER, WEBNLG, Score, chosen, score_e2e, score_webnlg
from sharelora.reporting.results import write_result
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

KIND = "nlg_score"


@dataclass(frozen=True)
class Task:
    """How a data set is scored.

    Args:
        metrics: name -> metric, for what can be left out.
        score: computes them.
        read_references: reads upstream's form of references.
        references: how many of an input count; None for all.
    """

    metrics: Mapping[str, Score]
    score: Callable[..., dict[str, float]]
    read_references: Callable[[Path], list[list[str]]]
    references: int | None = None


# Six references are what LoRA's recipe passes to the scripts of WebNLG.
TASKS: Mapping[str, Task] = {
    "e2e": Task(E2E, score_e2e, read_blocks),
    "webnlg": Task(WEBNLG, score_webnlg, read_numbered, 6),
    "dart": Task(WEBNLG, score_webnlg, read_numbered, 6),
}


def parser() -> Parser:
    """Every flag of this command."""
    made = Parser(
        "score.py", "BLEU, NIST, METEOR, ROUGE-L and CIDEr for E2E; BLEU, METEOR and TER for WebNLG and DART."
    )
    add = made.add_argument
    add("--task", choices=tuple(TASKS), required=True, help="which metrics, and which form the references have")
    add("--predictions", required=True, help="predictions.jsonl of gpt2_beam.py, or text: one line per distinct input")
    add(
        "--references", help="e2e: a file with an empty line after each input's texts; else a folder of reference0, ..."
    )
    add("--data", help="instead of --references: a data set's name or file; the task's own by default")
    add("--split", default="test", help="split of --data")
    add("--data_root", help="folder of data sets; by default SHARELORA_DATA, else the hub")
    add("--tokenizer", help="folder of the model that wrote predictions.jsonl")
    add("--ref_num", type=positive, help="most references of an input that count (all for e2e, 6 for webnlg and dart)")
    add("--without", default="", help="metrics to leave out, comma-separated: meteor where there is no Java")
    made.switch("--python", help="e2e: NIST as measure_scores.py -p has it, which LoRA's recipe uses")
    add("--adapter", help="the adapter that wrote the predictions, to show up beside its training in a comparison")
    add("--output", help="folder for result.json (that of the predictions)")
    made.switch("--tiny", tiny_environment(), help="take the project's own small data")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None means the process's own.

    Raises:
        UserError: an unknown flag, or flags that do not go together.
    """
    args = parser().parse(argv)
    args.without = [name.strip() for name in args.without.split(",") if name.strip()]
    chosen(TASKS[args.task].metrics, args.without)
    if args.references and args.data:
        raise UserError("found both --references and --data; need one source of references; leave one out")
    if args.python and args.task != "e2e":
        raise UserError(f"found --python with --task {args.task}; it is about NIST, which e2e alone has; leave it out")
    if _is_jsonl(args) and args.references:
        raise UserError(
            "found token ids in --predictions and texts in --references; which rows belong together only the data set "
            "says; give --data instead, or predictions.txt"
        )
    if _is_jsonl(args) and not args.tokenizer:
        raise UserError(
            "found token ids in --predictions; need the model's tokenizer to read them; add --tokenizer DIR"
        )
    return args


def _is_jsonl(args: argparse.Namespace) -> bool:
    return Path(args.predictions).suffix == ".jsonl"


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Read, score, print and write `result.json`.

    Args:
        args: as `parse` returns.

    Returns:
        Metric -> score over all inputs; of seen and unseen categories as `BLEU_seen`, ...; and `inputs`.

    Raises:
        UserError: files of another form, texts without references, or what a metric needs is not installed.
    """
    began, task = time.monotonic(), TASKS[args.task]
    if "METEOR" in chosen(task.metrics, args.without):
        java.jar(java.METEOR)
    found = load(args)
    metrics = score(args, found)
    logger.info("%s", table(args, metrics))
    files = {"predictions": args.predictions, **({"adapter": args.adapter} if args.adapter else {})}
    folder = Path(args.output or Path(args.predictions).parent)
    path = write_result(folder, KIND, vars(args), metrics, files=files, seconds=time.monotonic() - began)
    logger.info("wrote %s", path)
    return metrics


def load(args: argparse.Namespace) -> TestSet:
    """Read hypotheses and references.

    Raises:
        UserError: a file of another form, or predictions of other inputs.
    """
    task, predictions = TASKS[args.task], Path(args.predictions)
    most = args.ref_num or task.references
    if args.references:
        references = task.read_references(Path(args.references))
        return TestSet(read_lines(predictions), [texts[:most] for texts in references])
    groups = grouped(load_nlg(args.data or args.task, args.split, command.data_root(args)))
    hypotheses = _decoded(args, groups) if _is_jsonl(args) else read_lines(predictions)
    seen = [bool(group.seen) for group in groups] if all(group.seen is not None for group in groups) else None
    return TestSet(hypotheses, [group.references[:most] for group in groups], seen)


def _decoded(args: argparse.Namespace, groups: Sequence[Any]) -> list[str]:
    from sharelora.models.load import load_tokenizer

    return read_decoded(Path(args.predictions), groups, load_tokenizer(args.tokenizer))


def score(args: argparse.Namespace, found: TestSet) -> dict[str, Any]:
    """Compute every metric that was asked for, over all inputs and over those of seen and of unseen categories."""
    task, options = TASKS[args.task], {"python": True} if args.python else {}
    metrics: dict[str, Any] = task.score(found.hypotheses, found.references, args.without, **options)
    metrics["inputs"] = len(found.references)
    for name, seen in (("seen", True), ("unseen", False)) if found.seen else ():
        part = found.part(seen)
        if part.references:
            scores = task.score(part.hypotheses, part.references, args.without, **options)
            metrics.update({f"{metric}_{name}": value for metric, value in scores.items()})
            metrics[f"inputs_{name}"] = len(part.references)
    return metrics


def table(args: argparse.Namespace, metrics: Mapping[str, Any]) -> str:
    """The result in a few lines."""
    parts = [part for part in ("", "_seen", "_unseen") if f"inputs{part}" in metrics]
    lines = [f"{args.task}, {metrics['inputs']} inputs" + "".join(f"{part[1:]:>10}" for part in parts if part)]
    left = chosen(TASKS[args.task].metrics, args.without)
    for name in left:
        note = "  (lower is better)" if name in LOWER_IS_BETTER else ""
        lines.append(f"  {name:<8}" + "".join(f"{metrics[name + part]:10.4f}" for part in parts) + note)
    if args.without:
        lines.append(f"  left out: {', '.join(name for name in TASKS[args.task].metrics if name not in left)}")
    if args.task == "e2e" and "METEOR" not in left:
        lines.append("  without Java: ROUGE_L and CIDEr use our own tokens in place of Stanford's")
    return "\n".join(lines)
