"""Beam search over a test set: upstream's way, in batches with duplicates, and ours, with the same texts.

    python benchmarks/speed/e2e_decode.py --model DIR --adapter DIR   a tuned model on E2E, beam 10, up to 64 tokens
    python benchmarks/speed/e2e_decode.py --shape gpt2                random weights of GPT-2 small: no text ends early
    python benchmarks/speed/e2e_decode.py --quick                     the project's own small model and data
    ... --rival 24                                                    CTranslate2 on so many inputs, too

`upstream` decodes one row at a time as LoRA's gpt2_beam.py does (`upstream_beam.py`), on a few rows drawn by
chance; `batched` is our search on more rows with all their duplicates; `distinct` is what NLG/gpt2_beam.py does, each
input once. With `--rival`, CTranslate2 decodes distinct inputs too (`ctranslate2_beam.py`): once until every text has
its full length, as upstream does, and once with its own earlier stop, which is another search. What was not measured in
full is extrapolated from the time per row, and marked so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import add_measurement_flags, begin_result, fill, measure_and_report, new_parser
from benchmarks.harness.machine import OtherLoad
from benchmarks.harness.report import ROOT, table
from sharelora.reporting.document import opening
from sharelora.support.errors import run_main

if TYPE_CHECKING:
    from benchmarks.speed.decoded import Part, Subject

FULL = {"sample": 3, "rows": 96, "eval_len": 64, "seq_len": 512, "beam": 10}
QUICK = {"sample": 2, "rows": 12, "eval_len": 24, "seq_len": 128, "beam": 4}
# How many times as fast as a way the whole test set should be decoded our way.
GOALS = {"upstream": 100, "ctranslate2": 1}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; sizes that are not given are those of LoRA's recipe, or small with --quick."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--model", help="folder or hub id of the base model")
    add("--adapter", help="an adapter for it")
    add("--shape", metavar="NAME", help="random weights in a known shape instead: gpt2, gpt2-medium")
    add("--data", default="e2e", help="name of a set, or a file")
    add("--data_root", help="folder of data sets; by default SHARELORA_DATA")
    add("--sample", type=int, help="rows that are decoded upstream's way (3)")
    add("--rows", type=int, help="rows that are decoded in batches with duplicates (96)")
    add("--limit", type=int, help="distinct inputs that are decoded our way; all unless given")
    add("--rival", type=int, default=0, metavar="N", help="distinct inputs that CTranslate2 decodes, fetched once")
    add("--packages", default=str(ROOT / "runs" / "packages"), metavar="DIR", help="where CTranslate2 is kept")
    add("--beam", type=int, help="texts that are kept (10)")
    add("--eval_len", type=int, help="most tokens of a text (64)")
    add("--seq_len", type=int, help="columns that upstream fills (512)")
    add("--length_penalty", type=float, default=0.8)
    add("--batch_size", default="auto", help="prompts at once, for the two that take several")
    add("--seed", type=int, default=0, help="of the rows that are drawn, and of random weights")
    add_measurement_flags(parser, "the project's own small model and data, few rows")
    args = parser.parse_args(argv)
    return fill(args, QUICK if args.quick else FULL)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Decode in all three ways and compare times and texts.

    Raises:
        UserError: no model or data, or a busy machine with --save.
    """
    from benchmarks.speed import decoded

    subject = decoded.load_subject(args)
    part = decoded.choose(subject, args.sample, args.rows, args.limit, args.seed)
    result = begin_result("e2e_decode", args)
    result["subject"] = {"about": subject.about, "rows": subject.count, "inputs": len(subject.prompts)}
    ways = _decode(subject, part, args)
    result["ways"] = {name: {key: way[key] for key in way if key != "texts"} for name, way in ways.items()}
    result["texts"] = _agreement({name: way["texts"] for name, way in ways.items()})
    return result


def _decode(subject: Subject, part: Part, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run each way; `texts` holds its texts, by distinct input."""
    from benchmarks.speed.upstream_beam import upstream_search
    from sharelora.evaluation.batching import evaluating
    from sharelora.evaluation.beam.decoding import decode

    settings, prompts = subject.settings, subject.prompts

    def upstream() -> list[Any]:
        with evaluating(subject.model):
            return [upstream_search(subject.model, prompts[i], settings, args.seq_len) for i in part.sample]

    def batched(inputs: Sequence[int]) -> Callable[[], list[Any]]:
        chosen = [prompts[i] for i in inputs]
        return lambda: list(decode(subject.model, chosen, settings, subject.pad_id, args.batch_size).best)

    def rows(inputs: Sequence[int]) -> float:
        return subject.count * len(inputs) / len(prompts)

    ways = {
        "upstream": _timed("upstream", part.sample, upstream, len(part.sample), subject.count),
        "batched": _timed("batched", part.rows, batched(part.rows), len(part.rows), subject.count),
        "distinct": _timed("distinct", part.inputs, batched(part.inputs), rows(part.inputs), subject.count),
    }
    return (
        ways if not args.rival else {**ways, **_rival(subject, _alike(part.inputs, prompts)[: args.rival], rows, args)}
    )


def _alike(inputs: Sequence[int], prompts: Sequence[Sequence[int]]) -> list[int]:
    """Sort inputs by how many have the same length: CTranslate2 reads batches of one length, which should be full."""
    counts = Counter(len(prompts[i]) for i in inputs)
    return sorted(inputs, key=lambda i: (-counts[len(prompts[i])], len(prompts[i])))


def _rival(
    subject: Subject, inputs: list[int], rows: Callable[[Sequence[int]], float], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Run CTranslate2 with both of its stops; the conversion is not timed."""
    import torch

    from benchmarks.speed.ctranslate2_beam import make_importable
    from sharelora.evaluation.beam import ctranslate2 as rival

    make_importable(Path(args.packages) / "ctranslate2")
    prompts = [subject.prompts[i] for i in inputs]
    with rival.opened(subject.model, subject.settings.eos_ids[0], torch.get_num_threads()) as generator:

        def run(patience: float) -> Callable[[], list[Any]]:
            return lambda: rival.search(generator, prompts, subject.settings, patience)

        stops = {"ctranslate2": rival.NO_STOP, "ctranslate2, stops early": rival.OWN_STOP}
        return {name: _timed(name, inputs, run(stop), rows(inputs), subject.count) for name, stop in stops.items()}


def _timed(name: str, inputs: list[int], run: Callable[[], list[Any]], rows: float, whole: int) -> dict[str, Any]:
    """Time a way of decoding.

    Args:
        name: of the way.
        inputs: distinct inputs that it decodes, with repetitions.
        run: decodes them.
        rows: how many rows of the test set these inputs are.
        whole: rows of the test set.
    """
    print(f"decoding {len(inputs)} prompts: {name}", file=sys.stderr, flush=True)
    with OtherLoad() as load:
        began, before = time.perf_counter(), time.process_time()
        texts = run()
        seconds, cpu = time.perf_counter() - began, time.process_time() - before
    return {
        "prompts": len(inputs),
        "rows": rows,
        "seconds": seconds,
        "seconds_per_row": seconds / rows,
        # Of all threads; where others use the machine too it says more than the clock.
        "cpu_seconds_per_row": cpu / rows,
        "whole_seconds": seconds * whole / rows,
        "measured_whole": round(rows) == whole,
        "others_percent": load.percent,
        "texts": dict(zip(inputs, texts, strict=True)),
    }


def _agreement(texts: dict[str, dict[int, Any]]) -> list[dict[str, Any]]:
    """Compare the texts of each way with ours for the same inputs."""
    ours = texts["distinct"]
    rows = []
    for name in texts:
        if name == "distinct":
            continue
        pairs = [(text, ours[i]) for i, text in texts[name].items() if i in ours]
        same = [(text.score, own.score) for text, own in pairs if text.ids == own.ids]
        other = [(text.score, own.score) for text, own in pairs if text.ids != own.ids]
        better = sum(score > own for score, own in other)
        row = {"way": name, "inputs": len(pairs), "same": len(same), "better": better, "worse": len(other) - better}
        rows.append({**row, "score_gap": max((abs(score - own) for score, own in same), default=0.0)})
    return rows


_HEADERS = ("way", "prompts measured", "seconds", "s per row", "CPU s per row", "whole test set", "faster", "less CPU")


def _line(name: str, way: dict[str, Any], slowest: dict[str, Any]) -> tuple[Any, ...]:
    whole = f"{way['whole_seconds']:,.0f} s" + ("" if way["measured_whole"] else " (extrapolated)")
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


def _goals(ways: dict[str, dict[str, Any]]) -> list[str]:
    goals = {name: goal for name, goal in GOALS.items() if name in ways}
    times = {name: ways[name]["seconds_per_row"] / ways["distinct"]["seconds_per_row"] for name in goals}
    return [
        f"- {'met' if times[name] >= goal else 'MISSED'}: {times[name]:,.3g}x as fast as {name} (at least {goal})"
        for name, goal in goals.items()
    ]


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    subject, ways, settings = result["subject"], result["ways"], result["settings"]
    slowest, others = ways["upstream"], max(way["others_percent"] for way in ways.values())
    texts = [
        f"- {row['way']}: {row['same']} of {row['inputs']} texts are the same tokens as ours, with scores within "
        f"{row['score_gap']:.1e}; of the others {row['better']} score higher than ours, {row['worse']} lower"
        for row in result["texts"]
    ]
    about = (
        f"{subject['about']}: {subject['rows']:,} rows, {subject['inputs']:,} distinct inputs; beam "
        f"{settings['beam']}, up to {settings['eval_len']} tokens, {settings['threads']} threads."
    )
    return "\n\n".join(
        [
            opening(result),
            f"{about} Others used up to {others} % of the machine meanwhile.",
            table(_HEADERS, [_line(name, way, slowest) for name, way in ways.items()]),
            "\n".join(texts),
            "\n".join(_goals(ways)) + "\n",
        ]
    )


def main() -> None:
    """Measure, print, and with --save write JSON and Markdown."""
    measure_and_report(arguments(), measure, markdown)


if __name__ == "__main__":
    run_main(main)
