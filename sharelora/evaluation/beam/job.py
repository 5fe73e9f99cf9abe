"""The decoding from a parsed command line to its files: find, load, search, write."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharelora.data.nlg.convert import text_of
from sharelora.environment import peak_memory
from sharelora.evaluation.beam.decoding import Decoded, decode
from sharelora.evaluation.beam.model import Place, load, locate
from sharelora.evaluation.beam.prompts import Prompts, end_tokens, load_prompts
from sharelora.evaluation.beam.search import Hypothesis
from sharelora.evaluation.beam.settings import BeamSettings
from sharelora.evaluation.beam.store import Store
from sharelora.evaluation.progress import Progress
from sharelora.files import require_writable, write_text
from sharelora.models import load_tokenizer
from sharelora.results import write_result
from sharelora.training.model import plan_facts

logger = logging.getLogger(__name__)

KIND = "beam"
TEXTS = "predictions.txt"
NOTHING = Decoded((), 0, 0, 0)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line asks for.

    Args:
        args: as `sharelora.evaluation.beam.arguments.parse` returns.

    Returns:
        What was measured.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    began = time.monotonic()
    for notice in args.notices:
        logger.info("note: %s", notice)
    place = locate(args)
    tokenizer = load_tokenizer(place.base)
    settings = beam_settings(args, tokenizer)
    prompts = load_prompts(tokenizer, args.data, args.split, args.seq_len, args.eval_len, _root(args))
    _tell(args, prompts)
    prompts = prompts.first(args.limit)
    if args.dry_run:
        logger.info("dry run: nothing was loaded, decoded or written")
        return {}
    folder = require_writable(args.work_dir)
    store = Store(folder, _deciding(args, place, settings, prompts), args.overwrite)
    resumed = len(store.found)
    model, decoded, seconds = _search(args, place, settings, prompts, store, tokenizer.pad_token_id)
    best = [store.found[index] for index in range(len(prompts.ids))]
    metrics = {**_metrics(prompts, best, settings), "seconds": seconds, "inputs_found_before": resumed}
    if model is not None:
        metrics |= _costs(decoded, seconds)
    if model is not None or not _written(args, folder):
        files = _write(args, folder, prompts, best, tokenizer)
        _report(args, folder, place, metrics, files, model, began)
    return metrics


def beam_settings(args: argparse.Namespace, tokenizer: Any) -> BeamSettings:
    """Return the search that the flags ask for.

    Raises:
        UserError: a value that means nothing, or a token outside the vocabulary.
    """
    settings = BeamSettings(
        eos_ids=end_tokens(tokenizer, args.eos_token_id),
        beam=args.beam,
        eval_len=args.eval_len,
        min_length=args.min_length,
        length_penalty=args.length_penalty,
        no_repeat_ngram_size=args.no_repeat_ngram_size,
        repetition_penalty=args.repetition_penalty,
    )
    settings.require_vocabulary(len(tokenizer))
    return settings


def _root(args: argparse.Namespace) -> Path | None:
    if args.data_root is None and args.tiny and not os.environ.get("SHARELORA_DATA"):
        from sharelora.tiny import tiny_data

        return tiny_data()
    return None if args.data_root is None else Path(args.data_root)


def _tell(args: argparse.Namespace, prompts: Prompts) -> None:
    rows = sum(map(len, prompts.rows))
    logger.info("%s: %s rows, %s distinct inputs", args.data, f"{rows:,}", f"{len(prompts.ids):,}")
    if prompts.report.cut:
        logger.warning("warning: %s", prompts.report.line())


def _deciding(args: argparse.Namespace, place: Place, settings: BeamSettings, prompts: Prompts) -> dict[str, Any]:
    """Everything that decides which texts are found; the batch size is not among it."""
    return {
        **place.fingerprint(),
        **prompts.fingerprint(),
        "seq_len": args.seq_len,
        "dtype": args.dtype,
        **settings.data(),
    }


def _search(
    args: argparse.Namespace, place: Place, settings: BeamSettings, prompts: Prompts, store: Store, pad_id: int
) -> tuple[Any, Decoded, float]:
    """Find the texts that are still missing; the model is loaded only if there are some."""
    missing = [index for index in range(len(prompts.ids)) if index not in store.found]
    if not missing:
        logger.info("all %s texts are there already: %s", f"{len(store.found):,}", store.path)
        return None, NOTHING, 0.0
    if store.found:
        logger.info("going on: %s of %s inputs are done", f"{len(store.found):,}", f"{len(prompts.ids):,}")
    model = load(place, args.dtype)
    began = time.perf_counter()
    decoded = decode(
        model,
        [prompts.ids[index] for index in missing],
        settings,
        pad_id,
        args.batch_size,
        keep=lambda new: store.add({missing[index]: text for index, text in new.items()}),
        listener=Progress("beam search", bar=24),
    )
    return model, decoded, time.perf_counter() - began


def _metrics(prompts: Prompts, best: Sequence[Hypothesis], settings: BeamSettings) -> dict[str, Any]:
    count = max(1, len(best))
    return {
        "inputs": len(best),
        "rows": sum(map(len, prompts.rows)),
        "inputs_cut": prompts.report.cut,
        "text_tokens": sum(len(text.ids) for text in best),
        "text_length": sum(len(text.ids) for text in best) / count,
        "score": sum(text.score for text in best) / count,
        # The others reached the most tokens that a text may have.
        "ended": sum(text.ids[-1:] != () and text.ids[-1] in settings.eos_ids for text in best) / count,
    }


def _costs(decoded: Decoded, seconds: float) -> dict[str, Any]:
    read = decoded.prompt_tokens + decoded.beam_tokens
    return {
        "prompt_tokens": decoded.prompt_tokens,
        "beam_tokens": decoded.beam_tokens,
        "tokens_per_second": read / max(seconds, 1e-9),
        "inputs_per_second": len(decoded.best) / max(seconds, 1e-9),
        "batch_size": decoded.batch_size,
        "peak_memory_bytes": peak_memory(),
    }


def _written(args: argparse.Namespace, folder: Path) -> bool:
    """Whether the files of an earlier run are all there; what was measured then stays."""
    return all((folder / name).is_file() for name in (args.output_file, TEXTS, "result.json"))


def _write(
    args: argparse.Namespace, folder: Path, prompts: Prompts, best: Sequence[Hypothesis], tokenizer: Any
) -> dict[str, Path]:
    """Write the ids for every row of the data set, as upstream does, and the texts of the distinct inputs."""
    by_row = {row: text.ids for text, rows in zip(best, prompts.rows, strict=True) for row in rows}
    lines = (json.dumps({"id": row, "predict": list(by_row[row])}) for row in sorted(by_row))
    ids, texts = folder / args.output_file, folder / TEXTS
    write_text(ids, "".join(line + "\n" for line in lines))
    # One line each, whatever white space a text has in it.
    write_text(texts, "".join(" ".join(text_of(tokenizer, list(text.ids)).split()) + "\n" for text in best))
    return {"predictions": ids, "texts": texts}


def _report(
    args: argparse.Namespace,
    folder: Path,
    place: Place,
    metrics: dict[str, Any],
    files: dict[str, Path],
    model: Any,
    began: float,
) -> None:
    path = write_result(
        folder,
        KIND,
        {**vars(args), "adapter": None if place.adapter is None else str(place.adapter)},
        metrics,
        plan_facts(model),
        {**files, **({"adapter": place.adapter} if place.adapter is not None else {})},
        time.monotonic() - began,
        model=place.base,
    )
    logger.info("%s", summary(metrics))
    logger.info("wrote %s, %s and %s", path, files["predictions"].name, files["texts"].name)


def summary(metrics: dict[str, Any]) -> str:
    """What was decoded, in a line."""
    return (
        f"{metrics['inputs']:,} inputs in {metrics['seconds']:.1f} s, texts of {metrics['text_length']:.1f} tokens, "
        f"{100 * metrics['ended']:.1f} % of them ended"
    )
