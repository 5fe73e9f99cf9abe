"""Every evaluation command on its whole real test set with one model, and a table of what they say and cost.

    python benchmarks/exam_results.py --model DIR                 all of it, then docs/results/evaluation.md
    python benchmarks/exam_results.py --model DIR --limit 8       a few items of each; writes into --output alone

The commands run one after the other, as a user would start them. One that has ended is not run again, and texts that
are there already are kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "results" / "evaluation.md"


@dataclass(frozen=True)
class Exam:
    """A command, and which of its numbers the table shows.

    Args:
        program: its file in `eval/`, without the ending.
        flags: what it is told besides the model.
        scores: what is scored -> where its numbers are: the part of the metrics, and the score's name in it.
    """

    program: str
    flags: tuple[str, ...]
    scores: dict[str, tuple[str | None, str]]


# A slice is stated by its flags. What a small model writes hardly ever ends by itself, so texts are bounded.
EXAMS = {
    "mmlu": Exam("mmlu", ("--shots", "5", "--skip_too_long"), {"MMLU, 5-shot": (None, "accuracy")}),
    "mmlu_pro": Exam("mmlu_pro", ("--skip_too_long",), {"MMLU-Pro, 0-shot": (None, "accuracy")}),
    "commonsense": Exam(
        "commonsense",
        ("--tasks", "boolq,social_i_qa,winogrande,ARC-Easy,ARC-Challenge,openbookqa"),
        {
            "six commonsense tasks, likelihood": ("likelihood", "accuracy"),
            "six commonsense tasks, generated": ("generated", "accuracy"),
        },
    ),
    "gsm8k": Exam(
        "gsm8k",
        ("--shots", "2", "--max_new_tokens", "256"),
        {"GSM8K, 2-shot, marked number": (None, "accuracy"), "GSM8K, 2-shot, last number": (None, "accuracy_flexible")},
    ),
    "humaneval": Exam("humaneval", ("--max_new_tokens", "256"), {"HumanEval": (None, "pass@1")}),
}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub id of the base model")
    parser.add_argument("--adapter", default="none", help="an adapter for it; none: the base alone")
    parser.add_argument("--dtype", default="auto", help="of the model's weights, as the commands take it")
    parser.add_argument("--exams", default=",".join(EXAMS), metavar="A,B", help="some of them")
    parser.add_argument("--limit", type=int, help="ask so many items of each; no document")
    parser.add_argument("--output", default=str(ROOT / "runs" / "exams"), metavar="DIR", help="a folder for each exam")
    parser.add_argument("--document", default=str(DOCUMENT), metavar="FILE", help="the table as Markdown")
    return parser.parse_args(argv)


def chosen(names: str) -> dict[str, Exam]:
    """Return the exams of the given names.

    Raises:
        UserError: one is unknown.
    """
    from sharelora import UserError

    found = [name.strip() for name in names.split(",")]
    unknown = [name for name in found if name not in EXAMS]
    if unknown:
        raise UserError(f"found --exams {unknown[0]!r}; need some of {', '.join(EXAMS)}; separate them with commas")
    return {name: EXAMS[name] for name in found}


def words(exam: Exam, given: argparse.Namespace, folder: Path) -> list[str]:
    """The command, without the interpreter."""
    limit = [] if given.limit is None else ["--limit", str(given.limit)]
    model = ["--model", given.model, "--adapter", given.adapter, "--dtype", given.dtype]
    return [f"eval/{exam.program}.py", *model, *exam.flags, *limit, "--output", str(folder)]


def run_command(command: list[str]) -> int:
    """Run a command of the project; return its exit status."""
    return subprocess.run([sys.executable, *command], cwd=ROOT).returncode


def result_of(exam: Exam, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run a command unless its result is there, and return that.

    Raises:
        UserError: it did not end well; what it said stands above.
    """
    from sharelora import UserError
    from sharelora.support.files import read_json

    file, command = folder / "result.json", words(exam, given, folder)
    if not file.is_file():
        print(f"==> {shlex.join(command)}", flush=True)
        if code := run_command(command):
            raise UserError(f"found that {command[0]} ended with {code}; need 0; see what it said above")
    found: dict[str, Any] = read_json(file)
    return found


def rows(exam: Exam, result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table's rows of one exam: score, guessing, items, tokens, seconds."""
    found: list[tuple[str, ...]] = []
    for title, (part, name) in exam.scores.items():
        metrics = result["metrics"] if part is None else result["metrics"][part]
        items = metrics.get("questions", metrics.get("samples"))
        error = metrics[f"{name}_stderr"]
        tokens = metrics.get("tokens", result["metrics"].get("tokens"))
        score = f"{100 * metrics[name]:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")
        guess = f"{100 * metrics['chance']:.2f}" if "chance" in metrics else "0"
        seconds = metrics.get("seconds", metrics.get("generation_seconds", result["seconds"]))
        found.append((title, f"{items:,}", score, guess, f"{tokens:,}", f"{seconds:.0f}"))
    return found


def compose(exams: dict[str, Exam], results: dict[str, dict[str, Any]], given: argparse.Namespace) -> str:
    """The document."""
    from benchmarks import report

    headers = ("exam", "items", "score", "guessing", "tokens", "seconds")
    table = report.table(headers, [row for name, exam in exams.items() for row in rows(exam, results[name])])
    total = sum(result["seconds"] for result in results.values())
    commands = "\n".join(f"python {shlex.join(words(exam, given, Path('OUTPUT')))}" for exam in exams.values())
    return "\n\n".join(
        (
            report.heading(report.facts("Every exam with one model", {})),
            f"Model: `{Path(given.model).name}`, adapter: {given.adapter}. Scores: hundredths, ± one standard error; "
            "guessing is what a model reaches that knows nothing; tokens are those that the model read or wrote, after "
            "shared beginnings were read once; seconds are those of answering.",
            table,
            f"All commands together: {total / 60:.0f} minutes of wall clock, loading included.",
            f"```bash\n{commands}\n```",
        )
    )


def main() -> None:
    """Run what is missing and write the document."""
    given = arguments()
    exams = chosen(given.exams)
    from sharelora.support.files import write_text

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    root = Path(given.output)
    results = {name: result_of(exam, given, root / name) for name, exam in exams.items()}
    document = root / "evaluation.md" if given.limit else Path(given.document)
    write_text(document, compose(exams, results, given) + "\n")
    print(f"wrote {document}")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
