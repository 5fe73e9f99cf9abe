"""Beam search over a test set: upstream's way, in batches with duplicates, and ours, with the same texts.

    python benchmarks/e2e_decode.py --model DIR --adapter DIR     a tuned model on E2E, beam 10, up to 64 tokens
    python benchmarks/e2e_decode.py --shape gpt2                  GPT-2 small with random weights: no text ends early
    python benchmarks/e2e_decode.py --quick                       the project's own small model and data

`upstream` decodes one row at a time as LoRA's gpt2_beam.py does (`benchmarks/upstream_beam.py`), on a few rows drawn by
chance; `batched` is our search on more rows with all their duplicates; `distinct` is what NLG/gpt2_beam.py does, each
input once. What was not measured in full is reckoned up from the time per row, and says so.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

FULL = {"sample": 3, "rows": 96, "eval_len": 64, "seq_len": 512, "beam": 10}
QUICK = {"sample": 2, "rows": 12, "eval_len": 24, "seq_len": 128, "beam": 4}
# How many times faster than upstream's way the whole test set should be decoded.
GOAL = 100


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; sizes that are not given are those of LoRA's recipe, or small with --quick."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="folder or hub id of the base model")
    parser.add_argument("--adapter", help="an adapter for it")
    parser.add_argument("--shape", metavar="NAME", help="random weights in a known shape instead: gpt2, gpt2-medium")
    parser.add_argument("--data", default="e2e", help="name of a set, or a file")
    parser.add_argument("--data_root", help="folder of data sets; by default SHARELORA_DATA")
    parser.add_argument("--sample", type=int, help="rows that are decoded upstream's way (3)")
    parser.add_argument("--rows", type=int, help="rows that are decoded in batches with duplicates (96)")
    parser.add_argument("--limit", type=int, help="distinct inputs that are decoded our way; all unless given")
    parser.add_argument("--beam", type=int, help="texts that are kept (10)")
    parser.add_argument("--eval_len", type=int, help="most tokens of a text (64)")
    parser.add_argument("--seq_len", type=int, help="columns that upstream fills (512)")
    parser.add_argument("--length_penalty", type=float, default=0.8)
    parser.add_argument("--batch_size", default="auto", help="prompts at once, for the two that take several")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice unless given")
    parser.add_argument("--seed", type=int, default=0, help="of the rows that are drawn, and of random weights")
    parser.add_argument("--quick", action="store_true", help="the project's own small model and data, few rows")
    parser.add_argument("--save", nargs="?", const="", metavar="DIR", help="write files, to benchmarks/results or DIR")
    parser.add_argument("--force", action="store_true", help="save although others use the machine")
    given = parser.parse_args(argv)
    for name, value in (QUICK if given.quick else FULL).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Decode in all three ways and compare times and texts.

    Raises:
        UserError: no model or data, or a loaded machine with --save.
    """
    import torch

    from benchmarks import report
    from benchmarks.decoded import choose, load_subject
    from benchmarks.train_step import check_load

    if given.threads:
        torch.set_num_threads(given.threads)
    subject = load_subject(given)
    part = choose(subject, given.sample, given.rows, given.limit, given.seed)
    result = report.facts("e2e_decode", {**vars(given), "threads": torch.get_num_threads()})
    result["others_percent_before"] = check_load(given)
    result["subject"] = {"about": subject.about, "rows": subject.count, "inputs": len(subject.prompts)}
    found = _decode(subject, part, given)
    result["ways"] = {name: {key: way[key] for key in way if key != "texts"} for name, way in found.items()}
    result["texts"] = _agreement({name: way["texts"] for name, way in found.items()})
    return result


def _decode(subject: Any, part: Any, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run each way; `texts` holds what it found, by distinct input."""
    from benchmarks.upstream_beam import upstream_search
    from sharelora.evaluation.batching import evaluating
    from sharelora.evaluation.beam.decoding import decode

    settings, prompts = subject.settings, subject.prompts

    def upstream() -> list[Any]:
        with evaluating(subject.model):
            return [upstream_search(subject.model, prompts[i], settings, given.seq_len) for i in part.sample]

    def batched(places: list[int]) -> Callable[[], list[Any]]:
        chosen = [prompts[place] for place in places]
        return lambda: list(decode(subject.model, chosen, settings, subject.pad_id, given.batch_size).best)

    share = len(part.inputs) / len(prompts)
    return {
        "upstream": _timed("upstream", part.sample, upstream, len(part.sample), subject.count),
        "batched": _timed("batched", part.rows, batched(part.rows), len(part.rows), subject.count),
        "distinct": _timed("distinct", part.inputs, batched(part.inputs), subject.count * share, subject.count),
    }


def _timed(name: str, places: list[int], run: Callable[[], list[Any]], rows: float, whole: int) -> dict[str, Any]:
    """Time a way of decoding.

    Args:
        places: distinct inputs that it decodes, with repetitions.
        run: does it.
        rows: how many rows of the test set that stands for.
        whole: rows of the test set.
    """
    from benchmarks.timing import OtherLoad

    print(f"decoding {len(places)} prompts: {name}", file=sys.stderr, flush=True)
    with OtherLoad() as load:
        began, before = time.perf_counter(), time.process_time()
        texts = run()
        seconds, cpu = time.perf_counter() - began, time.process_time() - before
    return {
        "prompts": len(places),
        "rows": rows,
        "seconds": seconds,
        "seconds_per_row": seconds / rows,
        # Of all threads; where others use the machine too it says more than the clock.
        "cpu_seconds_per_row": cpu / rows,
        "whole_seconds": seconds * whole / rows,
        "measured_whole": round(rows) == whole,
        "others_percent": load.percent,
        "texts": dict(zip(places, texts, strict=True)),
    }


def _agreement(found: dict[str, dict[int, Any]]) -> list[dict[str, Any]]:
    """Compare what each way found for the same inputs with what ours did."""
    ours = found["distinct"]
    rows = []
    for name in ("upstream", "batched"):
        both = [place for place in found[name] if place in ours]
        differ = [place for place in both if found[name][place].ids != ours[place].ids]
        gaps = [abs(found[name][place].score - ours[place].score) for place in both]
        rows.append({"way": name, "inputs": len(both), "same": len(both) - len(differ), "score_gap": max(gaps)})
    return rows


_HEADERS = ("way", "prompts measured", "seconds", "s per row", "CPU s per row", "whole test set", "faster", "less CPU")


def _line(name: str, way: dict[str, Any], slowest: dict[str, Any]) -> tuple[Any, ...]:
    whole = f"{way['whole_seconds']:,.0f} s" + ("" if way["measured_whole"] else " (reckoned)")
    return (
        name,
        way["prompts"],
        f"{way['seconds']:.1f}",
        f"{way['seconds_per_row']:.4g}",
        f"{way['cpu_seconds_per_row']:.4g}",
        whole,
        f"{slowest['seconds_per_row'] / way['seconds_per_row']:,.1f}x",
        f"{slowest['cpu_seconds_per_row'] / max(way['cpu_seconds_per_row'], 1e-9):,.1f}x",
    )


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    from benchmarks import report

    subject, ways, settings = result["subject"], result["ways"], result["settings"]
    slowest, others = ways["upstream"], max(way["others_percent"] for way in ways.values())
    times = slowest["seconds_per_row"] / ways["distinct"]["seconds_per_row"]
    texts = [
        f"- {row['way']}: {row['same']} of {row['inputs']} texts are the same tokens as ours; scores differ by at most "
        f"{row['score_gap']:.1e}"
        for row in result["texts"]
    ]
    about = (
        f"{subject['about']}: {subject['rows']:,} rows, {subject['inputs']:,} distinct inputs; beam "
        f"{settings['beam']}, up to {settings['eval_len']} tokens, {settings['threads']} threads."
    )
    return "\n\n".join(
        [
            report.heading(result),
            f"{about} Others used up to {others} % of the machine meanwhile.",
            report.table(_HEADERS, [_line(name, way, slowest) for name, way in ways.items()]),
            "\n".join(texts),
            f"{'met' if times >= GOAL else 'MISSED'}: {times:,.0f}x faster than upstream's way (at least {GOAL})\n",
        ]
    )


def main() -> None:
    """Measure, print, and with --save write JSON and Markdown."""
    # PEFT asks models for an attribute that transformers has renamed since.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    from benchmarks import report

    given = arguments()
    if given.save is not None:
        given.save = given.save or str(report.RESULTS)
        report.require_writable(Path(given.save))
    result = measure(given)
    text = markdown(result)
    if given.save is not None:
        (written,) = report.save([Path(given.save)], result, text)
        print(f"wrote {written} and .md beside it")
    print(text)


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
