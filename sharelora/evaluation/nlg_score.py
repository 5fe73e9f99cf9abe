"""Scores of generated text: E2E with five metrics, WebNLG (all, seen and unseen categories) and DART with three."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.nlg import grouped, load_nlg
from sharelora.evaluation.nlg_texts import TestSet, read_blocks, read_decoded, read_lines, read_numbered
from sharelora.flags.fields import add_fields, help_field, take
from sharelora.flags.parser import Parser, positive, tiny_environment
from sharelora.metrics import java
from sharelora.metrics.nlg import E2E, LOWER_IS_BETTER, WEBNLG, Score, chosen, score_e2e, score_webnlg
from sharelora.reporting.results import write_result
from sharelora.support.errors import UserError

logger = logging.getLogger(__name__)

KIND = "nlg_score"


@dataclass(frozen=True)
class ScoredTask:
    """How a data set is scored.

    Args:
        metrics: name -> metric; any of them can be left out.
        score: computes them.
        read_references: reads upstream's form of references.
        references: how many of an input count; None for all.
    """

    metrics: Mapping[str, Score]
    score: Callable[..., dict[str, float]]
    read_references: Callable[[Path], list[list[str]]]
    references: int | None = None


# Six references are what LoRA's recipe passes to the scripts of WebNLG.
TASKS: Mapping[str, ScoredTask] = {
    "e2e": ScoredTask(E2E, score_e2e, read_blocks),
    "webnlg": ScoredTask(WEBNLG, score_webnlg, read_numbered, 6),
    "dart": ScoredTask(WEBNLG, score_webnlg, read_numbered, 6),
}


@dataclass(frozen=True)
class NlgScoreOptions:
    """Every flag of this command."""

    task: str = help_field(
        None, "which metrics, and which form the references have", choices=tuple(TASKS), required=True
    )
    predictions: str = help_field(
        None, "predictions.jsonl of gpt2_beam.py, or text: one line per distinct input", required=True
    )
    references: str | None = help_field(
        None, "e2e: a file with an empty line after each input's texts; else a folder of reference0, ..."
    )
    data: str | None = help_field(None, "instead of --references: a data set's name or file; the task's own by default")
    split: str = help_field("test", "split of --data")
    data_root: str | None = help_field(None, "folder of data sets; by default SHARELORA_DATA, else the hub")
    tokenizer: str | None = help_field(None, "folder of the model that wrote predictions.jsonl")
    ref_num: int | None = help_field(
        None, "most references of an input that count (all for e2e, 6 for webnlg and dart)", type=positive
    )
    without: Sequence[str] = help_field(
        "", "metrics to leave out, comma-separated: meteor where there is no Java", type=str
    )
    python: bool = help_field(False, "e2e: NIST as measure_scores.py -p has it, which LoRA's recipe uses")
    adapter: str | None = help_field(
        None, "the adapter that wrote the predictions, to appear next to its training in a comparison"
    )
    output: str | None = help_field(None, "folder for result.json (that of the predictions)")
    tiny: bool = help_field(tiny_environment, "take the project's own small data")

    @property
    def has_token_ids(self) -> bool:
        """Whether the predictions are token ids rather than text."""
        return Path(self.predictions).suffix == ".jsonl"


def parse(argv: Sequence[str] | None = None) -> NlgScoreOptions:
    """Read the command line; None means the process's own.

    Raises:
        UserError: an unknown flag, or flags that contradict each other.
    """
    parser = Parser(
        "score.py", "BLEU, NIST, METEOR, ROUGE-L and CIDEr for E2E; BLEU, METEOR and TER for WebNLG and DART."
    )
    add_fields(parser, NlgScoreOptions, "flags")
    values = parser.parse(argv)
    values.without = [name.strip() for name in values.without.split(",") if name.strip()]
    options: NlgScoreOptions = take(NlgScoreOptions, values)
    chosen(TASKS[options.task].metrics, options.without)
    if options.references and options.data:
        raise UserError("found both --references and --data; need one source of references; leave one out")
    if options.python and options.task != "e2e":
        raise UserError(
            f"found --python with --task {options.task}; it is about NIST, which only e2e has; leave it out"
        )
    if options.has_token_ids and options.references:
        raise UserError(
            "found token ids in --predictions and texts in --references; only the data set says which rows belong "
            "together; give --data instead, or predictions.txt"
        )
    if options.has_token_ids and not options.tokenizer:
        raise UserError(
            "found token ids in --predictions; need the model's tokenizer to read them; add --tokenizer DIR"
        )
    return options


def run(options: NlgScoreOptions) -> dict[str, Any]:
    """Read, score, print and write `result.json`.

    Args:
        options: as `parse` returns.

    Returns:
        Metric -> score over all inputs; of seen and unseen categories as `BLEU_seen`, ...; and `inputs`.

    Raises:
        UserError: files of another form, texts without references, or what a metric needs is not installed.
    """
    began, task = time.monotonic(), TASKS[options.task]
    if "METEOR" in chosen(task.metrics, options.without):
        java.jar(java.METEOR)
    metrics = score(options, load(options))
    logger.info("%s", table(options, metrics))
    files = {"predictions": options.predictions, **({"adapter": options.adapter} if options.adapter else {})}
    folder = Path(options.output or Path(options.predictions).parent)
    path = write_result(folder, KIND, vars(options), metrics, files=files, seconds=time.monotonic() - began)
    logger.info("wrote %s", path)
    return metrics


def load(options: NlgScoreOptions) -> TestSet:
    """Read hypotheses and references.

    Raises:
        UserError: a file of another form, or predictions of other inputs.
    """
    task, predictions = TASKS[options.task], Path(options.predictions)
    most = options.ref_num or task.references
    if options.references:
        references = task.read_references(Path(options.references))
        return TestSet(read_lines(predictions), [texts[:most] for texts in references])
    from sharelora.evaluation.subject import data_root  # heavy as well

    root = data_root(options.data_root, options.tiny)
    groups = grouped(load_nlg(options.data or options.task, options.split, root))
    if options.has_token_ids:
        assert options.tokenizer is not None, "`parse` sees to it"
        from sharelora.models.load import load_tokenizer  # transformers takes seconds, and text needs none of it

        hypotheses = read_decoded(predictions, groups, load_tokenizer(options.tokenizer))
    else:
        hypotheses = read_lines(predictions)
    seen = [bool(group.seen) for group in groups] if all(group.seen is not None for group in groups) else None
    return TestSet(hypotheses, [group.references[:most] for group in groups], seen)


def score(options: NlgScoreOptions, test_set: TestSet) -> dict[str, Any]:
    """Compute every metric that is not left out, over all inputs and over those of seen and of unseen categories."""
    task, form = TASKS[options.task], {"python": True} if options.python else {}
    metrics: dict[str, Any] = task.score(test_set.hypotheses, test_set.references, options.without, **form)
    metrics["inputs"] = len(test_set.references)
    for name, seen in (("seen", True), ("unseen", False)) if test_set.seen else ():
        part = test_set.part(seen)
        if part.references:
            scores = task.score(part.hypotheses, part.references, options.without, **form)
            metrics.update({f"{metric}_{name}": value for metric, value in scores.items()})
            metrics[f"inputs_{name}"] = len(part.references)
    return metrics


def table(options: NlgScoreOptions, metrics: Mapping[str, Any]) -> str:
    """The result in a few lines."""
    parts = [part for part in ("", "_seen", "_unseen") if f"inputs{part}" in metrics]
    lines = [f"{options.task}, {metrics['inputs']} inputs" + "".join(f"{part[1:]:>10}" for part in parts if part)]
    names = chosen(TASKS[options.task].metrics, options.without)
    for name in names:
        note = "  (lower is better)" if name in LOWER_IS_BETTER else ""
        lines.append(f"  {name:<8}" + "".join(f"{metrics[name + part]:10.4f}" for part in parts) + note)
    if options.without:
        lines.append(f"  left out: {', '.join(name for name in TASKS[options.task].metrics if name not in names)}")
    if options.task == "e2e" and "METEOR" not in names:
        lines.append("  without Java: ROUGE_L and CIDEr use our own tokens in place of Stanford's")
    return "\n".join(lines)
