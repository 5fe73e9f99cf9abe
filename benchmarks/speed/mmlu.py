"""MMLU three ways, with the same answers: one prompt at a time, lm-eval's `hf` model, and the examples read once.

    python benchmarks/speed/mmlu.py --model DIR --items 300     a real model on a slice of the 5-shot test
    python benchmarks/speed/mmlu.py --quick                     the project's own small model and data

`qlora` reads each prompt whole, one per batch, and computes logits at every position, as the callback of QLoRA does;
`lm_eval` is lm-eval 0.4 on the same texts; `ours` is what eval/mmlu.py does. A slice keeps subjects whole. The tokens
of the whole test are counted without a model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import add_measurement_flags, begin_result, measure_and_report, new_parser
from benchmarks.harness.report import memory, table
from sharelora.reporting.document import opening
from sharelora.support.errors import run_main

# At least this many times fewer tokens than lm-eval, its speed, and the speed of one prompt at a time.
GOALS = {"tokens": 6.0, "lm_eval": 5.0, "qlora": 5.0}
QUICK_ITEMS = 48


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--model", help="folder or hub id of the base model")
    add("--adapter", help="an adapter for it")
    add("--data_root", help="folder of data sets; by default SHARELORA_DATA")
    add("--items", type=int, help="questions, subject by subject; all unless given")
    add("--shots", type=int, default=5, help="solved examples before every question")
    add("--context", type=int, help="let the model read so many tokens, more than it has learnt to")
    add("--ways", type=lambda text: text.split(","), help="some of qlora,lm_eval,ours")
    add("--batch_size", default="auto", help="of ours")
    add("--lm_eval_batch_size", type=int, default=8, help="of lm-eval")
    add("--dtype", choices=("bf16", "fp32"), default="fp32")
    add("--seed", type=int, default=0, help="of the order of subjects")
    add_measurement_flags(parser, "the project's own small model and data, few questions")
    args = parser.parse_args(argv)
    if args.quick and args.items is None:
        args.items = QUICK_ITEMS
    return args


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Answer in every way; compare costs and answers.

    Raises:
        UserError: no model or data, a way that is not installed, or a busy machine with --save.
    """
    from benchmarks.speed import mmlu_ways

    names = mmlu_ways.ways(args.ways)
    quiz = mmlu_ways.load_quiz(args)
    result = begin_result("mmlu", args)
    answered = {}
    for name in names:
        print(f"answering {len(quiz.items)} questions: {name}", file=sys.stderr, flush=True)
        answered[name] = mmlu_ways.timed(name, quiz, args)
    result["quiz"] = {
        "about": quiz.about,
        "questions": len(quiz.items),
        "subjects": len({item.group for item in quiz.items}),
        "shortened": sum(quiz.exam.shortened.values()),
        "tokens": {"whole": sum(item.length for item in quiz.exam.encoded)},
    }
    result["whole_test"] = mmlu_ways.cost_of_all(quiz.tokenizer, args)
    result["ways"] = {name: {key: way[key] for key in way if key != "choices"} for name, way in answered.items()}
    result["answers"] = mmlu_ways.agreement({name: way["choices"] for name, way in answered.items()})
    return result


_HEADERS = ("way", "tokens", "characters", "passes", "seconds", "CPU s", "peak memory", "ours is faster", "less CPU")


def _line(name: str, way: dict[str, Any], ours: dict[str, Any]) -> tuple[Any, ...]:
    return (
        name,
        f"{way['columns']:,}",
        f"{way['characters']:,}",
        f"{way['passes']:,}",
        f"{way['seconds']:.1f}",
        f"{way['cpu_seconds']:.1f}",
        memory(way["peak_bytes"]),
        f"{way['seconds'] / ours['seconds']:.1f}x",
        f"{way['cpu_seconds'] / max(ours['cpu_seconds'], 1e-9):.1f}x",
    )


def goals(result: dict[str, Any]) -> list[str]:
    """Say of each goal whether it is met."""
    whole, ways = result["whole_test"], result["ways"]
    fewer = whole["whole"] / whole["shared"]
    tokens = f"{fewer:.1f}x fewer tokens than whole prompts on all {whole['questions']:,} questions"
    lines = [_goal(fewer, GOALS["tokens"], tokens)]
    for name, text in (("lm_eval", "lm-eval's speed"), ("qlora", "the speed of one prompt at a time")):
        if name in ways:
            times = ways[name]["seconds"] / ways["ours"]["seconds"]
            lines.append(_goal(times, GOALS[name], f"{times:.1f}x {text}"))
        else:
            lines.append(f"not measured: {text}")
    return lines


def _goal(value: float, least: float, text: str) -> str:
    return f"{'met' if value >= least else 'MISSED'}: {text} (at least {least:.0f})"


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    quiz, ways, settings = result["quiz"], result["ways"], result["settings"]
    others = max(way["others_percent"] for way in ways.values())
    answers = [
        f"- {row['way']}: {row['same']} of {row['items']} choices are ours; centred scores differ by at most "
        f"{row['score_gap']:.1e}"
        + (
            ""
            if row["same"] == row["items"]
            else f"; letters that were chosen differently by {row['closest']:.1e}, {row['ties']} of these are ties"
        )
        for row in result["answers"]
    ]
    about = (
        f"{quiz['about']}: {quiz['questions']:,} questions of {quiz['subjects']} subjects, {settings['shots']}-shot "
        f"({quiz['shortened']} with fewer examples, as more do not fit), {settings['threads']} threads; batches of "
        f"{settings['lm_eval_batch_size']} for lm-eval. Tokens are those that the model is given, fill included. "
        f"Others used up to {others} % of the machine meanwhile."
    )
    return "\n\n".join(
        [
            opening(result),
            about,
            table(_HEADERS, [_line(name, way, ways["ours"]) for name, way in ways.items()]),
            "\n".join(answers),
            "\n".join(f"- {line}" for line in goals(result)) + "\n",
        ]
    )


def main() -> None:
    """Measure, print, and with --save write JSON and Markdown."""
    measure_and_report(arguments(), measure, markdown)


if __name__ == "__main__":
    run_main(main)
