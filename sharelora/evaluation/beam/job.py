"""The decoding of a data set: check, load, search what is missing, write token ids, texts and the result."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.data.nlg.token_files import text_of
from sharelora.data.tokenise import padding_id
from sharelora.evaluation.beam import ctranslate2
from sharelora.evaluation.beam.arguments import OWN, BeamOptions
from sharelora.evaluation.beam.decoding import Decoded, decode, require_room
from sharelora.evaluation.beam.inputs import Prompts, end_tokens, load, load_prompts, locate
from sharelora.evaluation.beam.search import Hypothesis
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.store import Store
from sharelora.evaluation.subject import Subject, data_root
from sharelora.models.known import model_config
from sharelora.models.load import load_tokenizer
from sharelora.reporting.environment import peak_memory
from sharelora.reporting.progress import Progress
from sharelora.reporting.results import plan_facts, write_result
from sharelora.support.files import require_writable, vanishing, write_text

logger = logging.getLogger(__name__)

KIND = "beam"
FILE = "hypotheses.jsonl"
TEXTS = "predictions.txt"
RESULT = "result.json"


# A line of the file.
_ROW = {"input": range(1 << 31), "score": float, "predict": [range(1 << 31)]}


class HypothesisStore(Store[int, Hypothesis]):
    """The best texts by the index of their input.

    Args:
        folder: of the file.
        settings: everything that decides the texts.
        overwrite: discard texts that are there.

    Raises:
        UserError: the file belongs to other settings, or is damaged.
    """

    shape = _ROW

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        super().__init__(folder / FILE, settings, "--work_dir", overwrite)

    def _to_row(self, key: int, result: Hypothesis) -> dict[str, Any]:
        return {"input": key, "score": result.score, "predict": list(result.ids)}

    def _from_row(self, row: Any) -> tuple[int, Hypothesis]:
        return row["input"], Hypothesis(tuple(row["predict"]), row["score"])


@dataclass(frozen=True)
class DecodingJob:
    """A decoding that has been checked and can start.

    Args:
        options: the flags.
        subject: base and adapter.
        tokenizer: the base's.
        settings: of the search.
        prompts: the inputs.
    """

    options: BeamOptions
    subject: Subject
    tokenizer: Any
    settings: BeamSettings
    prompts: Prompts

    def deciding(self) -> dict[str, Any]:
        """Return everything that decides the texts; the batch size does not."""
        options = self.options
        facts = {**self.subject.fingerprint(), **self.prompts.fingerprint()}
        # Files of before engines could be chosen stay valid.
        other = {} if options.engine == OWN else {"engine": options.engine}
        return {**facts, "seq_len": options.seq_len, "dtype": options.dtype, **self.settings.data(), **other}


@dataclass(frozen=True)
class DecodingResult:
    """The texts and what they cost.

    Args:
        job: the inputs and settings.
        best: a text for each input.
        known: how many of them an earlier run had found.
        decoded: the search of this run; None if there was nothing left to do.
        seconds: its time.
        plan: the adapter's, see `sharelora.reporting.results.describe_plan`.
    """

    job: DecodingJob
    best: Sequence[Hypothesis]
    known: int
    decoded: Decoded | None
    seconds: float
    plan: dict[str, Any]

    def metrics(self) -> dict[str, Any]:
        """Return every number; times and costs are those of this run only."""
        count, prompts = max(1, len(self.best)), self.job.prompts
        ended = sum(text.ids[-1:] != () and text.ids[-1] in self.job.settings.eos_ids for text in self.best)
        metrics = {
            "inputs": len(self.best),
            "rows": sum(map(len, prompts.rows)),
            "inputs_cut": prompts.report.cut,
            "inputs_found_before": self.known,
            "text_tokens": sum(len(text.ids) for text in self.best),
            "text_length": sum(len(text.ids) for text in self.best) / count,
            "score": sum(text.score for text in self.best) / count,
            # The others reached the most tokens that a text may have.
            "ended": ended / count,
            "seconds": self.seconds,
        }
        if self.decoded is None:
            return metrics
        seconds, read = max(self.seconds, 1e-9), self.decoded.beam_tokens
        counted = (
            {}
            if read is None
            else {
                "beam_tokens": read,
                "tokens_per_second": (self.decoded.prompt_tokens + read) / seconds,
            }
        )
        return {
            **metrics,
            **counted,
            "prompt_tokens": self.decoded.prompt_tokens,
            "inputs_per_second": len(self.decoded.best) / seconds,
            "batch_size": self.decoded.batch_size,
            "peak_memory_bytes": peak_memory(),
        }


def run(options: BeamOptions) -> dict[str, Any]:
    """Decode what the command line names.

    Args:
        options: as `sharelora.evaluation.beam.arguments.parse` returns.

    Returns:
        The metrics; empty after a dry run.

    Raises:
        UserError: an error that the user can fix; found before the model is loaded wherever possible.
    """
    began = time.monotonic()
    for notice in options.notices:
        logger.info("note: %s", notice)
    job = prepare(options)
    if options.dry_run:
        logger.info("dry run: nothing was loaded, decoded or written")
        return {}
    with vanishing(options.work_dir):
        folder = require_writable(options.work_dir)
        result = search_missing(job, HypothesisStore(folder, job.deciding(), options.overwrite))
        # Where nothing was left to do and all files exist, the costs of the earlier run stay in its result.
        if result.decoded is not None or not all(
            (folder / name).is_file() for name in (options.output_file, TEXTS, RESULT)
        ):
            files = write(folder, options.output_file, job.prompts, result.best, job.tokenizer)
            report(result, folder, files, time.monotonic() - began)
    return result.metrics()


def prepare(options: BeamOptions) -> DecodingJob:
    """Find and check everything that can be known before the model is loaded.

    Raises:
        UserError: the first thing that would fail.
    """
    subject = locate(options)
    tokenizer = load_tokenizer(subject.base)
    settings = BeamSettings(
        eos_ids=end_tokens(tokenizer, options.eos_token_id),
        beam=options.beam,
        eval_len=options.eval_len,
        min_length=options.min_length,
        length_penalty=options.length_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        repetition_penalty=options.repetition_penalty,
    )
    settings.require_vocabulary(len(tokenizer))
    assert options.data is not None, "`parse` sees to it"
    if options.engine != OWN:
        ctranslate2.require(model_config(subject.base).model_type, settings, options.dtype)
    root = data_root(options.data_root, options.tiny)
    prompts = load_prompts(tokenizer, options.data, options.split, options.seq_len, options.eval_len, root)
    rows = sum(map(len, prompts.rows))
    logger.info("%s: %s rows, %s distinct inputs", options.data, f"{rows:,}", f"{len(prompts.ids):,}")
    if prompts.report.cut:
        logger.warning("warning: %s", prompts.report.line())
    context = subject.reads()
    require_room(prompts.ids, settings, context.tokens)
    context.require_embeddings(tokenizer, prompts.ids, f"{len(prompts.ids):,} inputs")
    return DecodingJob(options, subject, tokenizer, settings, prompts.first(options.limit))


def search_missing(job: DecodingJob, store: HypothesisStore) -> DecodingResult:
    """Search the texts that are missing; the model is loaded only if some are."""
    known, count = len(store.results), len(job.prompts.ids)
    missing = [index for index in range(count) if index not in store.results]
    decoded, seconds, plan = None, 0.0, {}
    if missing:
        logger.info("%s of %s inputs are done", f"{known:,}", f"{count:,}")
        model = load(job.subject, job.options.dtype)
        began, plan = time.perf_counter(), plan_facts(model)
        prompts = [job.prompts.ids[index] for index in missing]

        def keep(new: Mapping[int, Hypothesis]) -> None:
            store.add({missing[index]: text for index, text in new.items()})

        listener = Progress("beam search", bar=24)
        if job.options.engine == OWN:
            pad_id = padding_id(job.tokenizer, job.subject.reads())
            decoded = decode(model, prompts, job.settings, pad_id, job.options.batch_size, keep, listener)
        else:
            decoded = ctranslate2.decode(model, prompts, job.settings, keep, listener)
        seconds = time.perf_counter() - began
    else:
        logger.info("all %s texts are there already: %s", f"{count:,}", store.path)
    best = tuple(store.results[index] for index in range(count))
    return DecodingResult(job, best, known, decoded, seconds, plan)


def write(folder: Path, name: str, prompts: Prompts, best: Sequence[Hypothesis], tokenizer: Any) -> dict[str, Path]:
    """Write token ids for every row of the data set, as upstream does, and the texts of the distinct inputs.

    Upstream pads its ids with zeros, which are a token; here they end where the text ends.

    Args:
        folder: of the files.
        name: of the file of token ids.
        prompts: the inputs and their rows.
        best: a text for each input.
        tokenizer: turns ids into text.

    Returns:
        The files: `predictions` and `texts`.
    """
    by_row = {row: text.ids for text, rows in zip(best, prompts.rows, strict=True) for row in rows}
    lines = (json.dumps({"id": row, "predict": list(by_row[row])}) for row in sorted(by_row))
    # One line each, whatever white space a text has in it.
    texts = (" ".join(text_of(tokenizer, list(text.ids)).split()) for text in best)
    files = {"predictions": folder / name, "texts": folder / TEXTS}
    for file, content in zip(files.values(), (lines, texts), strict=True):
        write_text(file, "".join(line + "\n" for line in content))
    return files


def report(result: DecodingResult, folder: Path, files: Mapping[str, Path], seconds: float) -> None:
    """Write `result.json` and print the main numbers.

    Args:
        result: the texts and what they cost.
        folder: of the file.
        files: as `write` returns.
        seconds: of the whole run.
    """
    metrics, subject = result.metrics(), result.job.subject
    adapter = {} if subject.adapter is None else {"adapter": subject.adapter}
    config = {**vars(result.job.options), "adapter": None if subject.adapter is None else str(subject.adapter)}
    path = write_result(folder, KIND, config, metrics, result.plan, {**files, **adapter}, seconds, model=subject.base)
    logger.info(
        "%s inputs in %.1f s, texts of %.1f tokens, %.1f %% of them ended",
        f"{metrics['inputs']:,}",
        metrics["seconds"],
        metrics["text_length"],
        100 * metrics["ended"],
    )
    logger.info("wrote %s, %s and %s", path, files["predictions"].name, files["texts"].name)
