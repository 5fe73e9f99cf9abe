"""MMLU three ways, with the same answers: one prompt at a time, lm-eval's `hf` model, and the examples read once.

    python benchmarks/mmlu.py --model DIR --data_root DIR --items 300     a real model on a slice of the 5-shot test
    python benchmarks/mmlu.py --quick                                     the project's own small model and data

`qlora` reads each prompt whole and alone and computes logits at every position, as the callback of QLoRA does;
`lm_eval` is lm-eval 0.4 on the same texts; `ours` is what eval/mmlu.py does. A slice keeps subjects whole. The tokens
of the whole test are counted without a model.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# At least this many times fewer tokens than lm-eval, its speed, and the speed of one prompt at a time.
GOALS = {"tokens": 6.0, "lm_eval": 5.0, "qlora": 5.0}
QUICK_ITEMS = 48


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="folder or hub id of the base model")
    parser.add_argument("--adapter", help="an adapter for it")
    parser.add_argument("--data_root", help="folder of data sets; by default SHARELORA_DATA")
    parser.add_argument("--items", type=int, help="questions, subject by subject; all unless given")
    parser.add_argument("--shots", type=int, default=5, help="solved examples before every question")
    parser.add_argument("--context", type=int, help="let the model read so many tokens, more than it has learnt to")
    parser.add_argument("--ways", type=lambda text: text.split(","), help="some of qlora,lm_eval,ours")
    parser.add_argument("--batch_size", default="auto", help="of ours")
    parser.add_argument("--lm_eval_batch_size", type=int, default=8, help="of lm-eval")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="fp32")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice unless given")
    parser.add_argument("--seed", type=int, default=0, help="of the order of subjects")
    parser.add_argument("--quick", action="store_true", help="the project's own small model and data, few questions")
    parser.add_argument("--save", nargs="?", const="", metavar="DIR", help="write files, to benchmarks/results or DIR")
    parser.add_argument("--force", action="store_true", help="save although others use the machine")
    given = parser.parse_args(argv)
    if given.quick and given.items is None:
        given.items = QUICK_ITEMS
    return given


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Answer in every way; compare costs and answers.

    Raises:
        UserError: no model or data, a way that cannot be had, or a loaded machine with --save.
    """
    import torch

    from benchmarks import mmlu_ways, report
    from benchmarks.train_step import check_load

    if given.threads:
        torch.set_num_threads(given.threads)
    names = mmlu_ways.ways(given.ways)
    quiz = mmlu_ways.load_quiz(given)
    result = report.facts("mmlu", {**vars(given), "threads": torch.get_num_threads()})
    result["others_percent_before"] = check_load(given)
    found = {}
    for name in names:
        print(f"answering {len(quiz.items)} questions: {name}", file=sys.stderr, flush=True)
        found[name] = mmlu_ways.timed(name, quiz, given)
    result["quiz"] = {
        "about": quiz.about,
        "questions": len(quiz.items),
        "subjects": len({item.group for item in quiz.items}),
        "shortened": sum(quiz.exam.shortened.values()),
        "tokens": {"whole": sum(item.length for item in quiz.exam.encoded)},
    }
    result["whole_test"] = mmlu_ways.cost_of_all(quiz.tokenizer, given)
    result["ways"] = {name: {key: way[key] for key in way if key != "choices"} for name, way in found.items()}
    result["answers"] = mmlu_ways.agreement({name: way["choices"] for name, way in found.items()})
    return result


_HEADERS = ("way", "tokens", "characters", "passes", "seconds", "CPU s", "peak memory", "ours is faster", "less CPU")


def _line(name: str, way: dict[str, Any], ours: dict[str, Any]) -> tuple[Any, ...]:
    from benchmarks import report

    return (
        name,
        f"{way['columns']:,}",
        f"{way['characters']:,}",
        f"{way['passes']:,}",
        f"{way['seconds']:.1f}",
        f"{way['cpu_seconds']:.1f}",
        report.memory(way["peak_bytes"]),
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
    from benchmarks import report

    quiz, ways, settings = result["quiz"], result["ways"], result["settings"]
    others = max(way["others_percent"] for way in ways.values())
    answers = [
        f"- {row['way']}: {row['same']} of {row['items']} choices are ours; centred scores differ by at most "
        f"{row['score_gap']:.1e}"
        + ("" if row["same"] == row["items"] else f", letters that were chosen differently by {row['closest']:.1e}")
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
            report.heading(result),
            about,
            report.table(_HEADERS, [_line(name, way, ways["ours"]) for name, way in ways.items()]),
            "\n".join(answers),
            "\n".join(f"- {line}" for line in goals(result)) + "\n",
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
