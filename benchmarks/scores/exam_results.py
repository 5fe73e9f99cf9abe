"""Every evaluation command on its whole real test set with one model, and a table of scores and costs.

    python benchmarks/scores/exam_results.py --model DIR               all of it, then docs/results/evaluation.md
    python benchmarks/scores/exam_results.py --model DIR --limit 8     a few items of each; writes only into --output

The commands run one after the other, as a user would start them. One that has ended is not run again, and texts that
exist already are kept, so an interrupted run resumes where it stopped.
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
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.command import chosen_names, new_parser
from benchmarks.harness.report import DOCUMENTS, ROOT, table
from sharelora.reporting.document import opening, provenance
from sharelora.support.errors import UserError, run_main
from sharelora.support.files import write_text
from sharelora.support.reading import read_json


@dataclass(frozen=True)
class Exam:
    """A command, and which of its numbers the table shows.

    Attributes:
        program: its file in `eval/`, without the ending.
        flags: of the command besides the model.
        scores: title -> where its numbers are: the part of the metrics, and the score's name in it.
    """

    program: str
    flags: tuple[str, ...]
    scores: dict[str, tuple[str | None, str]]


# Text of a small model hardly ever ends by itself, so its length is bounded.
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
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--model", required=True, help="folder or hub id of the base model")
    add("--adapter", default="none", help="an adapter for it; none: the bare base")
    add("--dtype", default="auto", help="of the model's weights, as the commands take it")
    add("--exams", metavar="A,B", help=f"some of {','.join(EXAMS)}; all unless given")
    add("--limit", type=int, help="ask so many items of each; no document")
    add("--output", default=str(ROOT / "runs" / "exams"), metavar="DIR", help="a folder for each exam")
    add("--document", default=str(DOCUMENTS / "evaluation.md"), metavar="FILE", help="the table as Markdown")
    return parser.parse_args(argv)


def command_of(exam: Exam, args: argparse.Namespace, folder: Path | str) -> list[str]:
    """Return the command, without the interpreter."""
    limit = [] if args.limit is None else ["--limit", str(args.limit)]
    model = ["--model", args.model, "--adapter", args.adapter, "--dtype", args.dtype]
    return [f"eval/{exam.program}.py", *model, *exam.flags, *limit, "--output", str(folder)]


def run_command(command: list[str]) -> int:
    """Run a command of the project; return its exit status."""
    return subprocess.run([sys.executable, *command], cwd=ROOT).returncode


def result_of(exam: Exam, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run a command unless its result exists, and return that.

    Raises:
        UserError: the command failed; its own message is printed above.
    """
    file, command = folder / "result.json", command_of(exam, args, folder)
    if not file.is_file():
        print(f"==> {shlex.join(command)}", flush=True)
        if code := run_command(command):
            raise UserError(f"found that {command[0]} ended with {code}; need 0; see its message above")
    result: dict[str, Any] = read_json(file)
    return result


def rows(exam: Exam, result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table's rows of one exam: score, guessing, items, tokens, seconds."""
    lines: list[tuple[str, ...]] = []
    for title, (part, name) in exam.scores.items():
        metrics = result["metrics"] if part is None else result["metrics"][part]
        items = metrics.get("questions", metrics.get("samples"))
        error = metrics[f"{name}_stderr"]
        tokens = metrics.get("tokens", result["metrics"].get("tokens"))
        score = f"{100 * metrics[name]:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")
        guess = f"{100 * metrics['chance']:.2f}" if "chance" in metrics else "0"
        seconds = metrics.get("seconds", metrics.get("generation_seconds", result["seconds"]))
        lines.append((title, f"{items:,}", score, guess, f"{tokens:,}", f"{seconds:.0f}"))
    return lines


def compose(exams: dict[str, Exam], results: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    """Return the document."""
    headers = ("exam", "items", "score", "guessing", "tokens", "seconds")
    total = sum(result["seconds"] for result in results.values())
    commands = "\n".join(f"python {shlex.join(command_of(exam, args, 'OUTPUT'))}" for exam in exams.values())
    return "\n\n".join(
        (
            opening(provenance("Every exam with one model")),
            f"Model: `{Path(args.model).name}`, adapter: {args.adapter}. Scores: hundredths, ± one standard error; "
            "guessing is the score of a model that knows nothing; tokens are those that the model read or wrote, after "
            "shared beginnings were read once; seconds are those of answering.",
            table(headers, [row for name, exam in exams.items() for row in rows(exam, results[name])]),
            f"All commands together: {total / 60:.0f} minutes of wall clock, loading included.",
            f"```bash\n{commands}\n```",
        )
    )


def main() -> None:
    """Run what is missing and write the document."""
    args = arguments()
    exams = {name: EXAMS[name] for name in chosen_names(args.exams, EXAMS, "exam")}
    # Threads that wait for work must not take a core from the others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    root = Path(args.output)
    results = {name: result_of(exam, args, root / name) for name, exam in exams.items()}
    document = root / "evaluation.md" if args.limit else Path(args.document)
    write_text(document, compose(exams, results, args) + "\n")
    print(f"wrote {document}")


if __name__ == "__main__":
    run_main(main)
