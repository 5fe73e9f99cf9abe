"""What a decoding leaves: token ids for every row, texts to read, and what it took."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.nlg.token_files import text_of
from sharelora.evaluation.beam.decoding import Decoded
from sharelora.evaluation.beam.prompts import Prompts
from sharelora.evaluation.beam.search import Hypothesis
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.command import Subject
from sharelora.reporting.environment import peak_memory
from sharelora.reporting.results import write_result
from sharelora.support.files import write_text

logger = logging.getLogger(__name__)

KIND = "beam"
TEXTS = "predictions.txt"
RESULT = "result.json"


@dataclass(frozen=True)
class Measured:
    """The texts and what they cost.

    Args:
        prompts: the inputs.
        settings: of the search.
        best: a text for each input.
        known: how many of them an earlier run had found.
        decoded: the search of this run; None if there was nothing left to do.
        seconds: its time.
        plan: what the adapter shares, see `sharelora.reporting.results.describe_plan`.
    """

    prompts: Prompts
    settings: BeamSettings
    best: Sequence[Hypothesis]
    known: int
    decoded: Decoded | None
    seconds: float
    plan: dict[str, Any]

    def metrics(self) -> dict[str, Any]:
        """Return every number; times and costs are those of this run alone."""
        count = max(1, len(self.best))
        ended = sum(text.ids[-1:] != () and text.ids[-1] in self.settings.eos_ids for text in self.best)
        return {
            "inputs": len(self.best),
            "rows": sum(map(len, self.prompts.rows)),
            "inputs_cut": self.prompts.report.cut,
            "inputs_found_before": self.known,
            "text_tokens": sum(len(text.ids) for text in self.best),
            "text_length": sum(len(text.ids) for text in self.best) / count,
            "score": sum(text.score for text in self.best) / count,
            # The others reached the most tokens that a text may have.
            "ended": ended / count,
            "seconds": self.seconds,
            **self._costs(),
        }

    def _costs(self) -> dict[str, Any]:
        if self.decoded is None:
            return {}
        seconds = max(self.seconds, 1e-9)
        return {
            "prompt_tokens": self.decoded.prompt_tokens,
            "beam_tokens": self.decoded.beam_tokens,
            "tokens_per_second": (self.decoded.prompt_tokens + self.decoded.beam_tokens) / seconds,
            "inputs_per_second": len(self.decoded.best) / seconds,
            "batch_size": self.decoded.batch_size,
            "peak_memory_bytes": peak_memory(),
        }


def written(folder: Path, name: str) -> bool:
    """Whether the files of an earlier run are all there; what was measured then stays.

    Args:
        folder: where they lie.
        name: of the file of token ids.
    """
    return all((folder / file).is_file() for file in (name, TEXTS, RESULT))


def write(folder: Path, name: str, prompts: Prompts, best: Sequence[Hypothesis], tokenizer: Any) -> dict[str, Path]:
    """Write token ids for every row of the data set, as upstream does, and the texts of the distinct inputs.

    Upstream fills up its ids with zeros, which are a token; here they end where the text ends.

    Args:
        folder: where to.
        name: of the file of token ids.
        prompts: the inputs and their rows.
        best: a text for each input.
        tokenizer: turns ids into text.

    Returns:
        What each file is -> the file.
    """
    by_row = {row: text.ids for text, rows in zip(best, prompts.rows, strict=True) for row in rows}
    lines = (json.dumps({"id": row, "predict": list(by_row[row])}) for row in sorted(by_row))
    # One line each, whatever white space a text has in it.
    texts = (" ".join(text_of(tokenizer, list(text.ids)).split()) for text in best)
    files = {"predictions": folder / name, "texts": folder / TEXTS}
    for file, found in zip(files.values(), (lines, texts), strict=True):
        write_text(file, "".join(line + "\n" for line in found))
    return files


def report(
    args: argparse.Namespace, folder: Path, subject: Subject, measured: Measured, files: dict[str, Path], seconds: float
) -> None:
    """Write `result.json` and say what came out.

    Args:
        args: the command line.
        folder: where to.
        subject: base and adapter.
        measured: the texts and what they cost.
        files: as `write` returns.
        seconds: of the whole run.
    """
    metrics, adapter = measured.metrics(), {} if subject.adapter is None else {"adapter": subject.adapter}
    config = {**vars(args), "adapter": None if subject.adapter is None else str(subject.adapter)}
    path = write_result(folder, KIND, config, metrics, measured.plan, {**files, **adapter}, seconds, model=subject.base)
    logger.info(
        "%s inputs in %.1f s, texts of %.1f tokens, %.1f %% of them ended",
        f"{metrics['inputs']:,}",
        metrics["seconds"],
        metrics["text_length"],
        100 * metrics["ended"],
    )
    logger.info("wrote %s, %s and %s", path, files["predictions"].name, files["texts"].name)
