"""Answer LLaVA-Bench's questions about images, and score a judge's ratings of the answers.

    python eval/llava_bench.py --adapter runs/a --bench DIR --output runs/a_bench                      answers.jsonl
    python eval/llava_bench.py --adapter runs/a --bench DIR --judge_url http://localhost:8000/v1 --judge_model NAME
    python eval/llava_bench.py --bench DIR --ratings reviews.jsonl --output runs/a_bench               scores a file

DIR has `questions.jsonl`, `images/`, and for a judge `answers_gpt4.jsonl` and `context.jsonl`. Nothing is sent to a
judge unless `--judge_url` names one. What was answered or rated is kept, so the same command goes on after a kill.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharelora.evaluation import command
from sharelora.flags.parser import Parser, positive
from sharelora.support.errors import UserError

if TYPE_CHECKING:
    from sharelora.data.vision.bench import BenchQuestion, Rating
    from sharelora.evaluation.generation import Generated, GenerationSettings
    from sharelora.evaluation.vision.answers import ImagePrompts

logger = logging.getLogger("sharelora.eval.llava_bench")
# LLaVA's own script asks for as many.
MOST_TOKENS, TINY_TOKENS = 1024, 32


def parser() -> Parser:
    """Every flag of this command."""
    made = Parser("llava_bench.py", "Answers to LLaVA-Bench, and the score of a judge's ratings.")
    command.add_flags(made, "runs/llava_bench", "questions")
    add = made.add_argument
    add("--bench", help="folder of questions.jsonl, images, and what a judge is shown")
    add("--image_folder", help="folder of the images; by default `images` in --bench")
    add("--max_new_tokens", type=positive, help="most tokens of an answer; 1024 if not given, 32 with --tiny")
    add("--chat_template", help="`vicuna`, `own` or a Jinja file; by default vicuna for LLaVA, else the model's own")
    add("--ratings", help="a judge's reviews in LLaVA's form: score them, without any model")
    add(
        "--judge_url", help="server of OpenAI's chat completions that rates the answers, up to before /chat/completions"
    )
    add("--judge_model", help="the judge's name there")
    add("--judge_rules", help="LLaVA's rule.json, to ask in its words")
    made.switch("--overwrite", help="start anew where answers or ratings were made with other settings")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Answer, have rated, score and report."""
    command.start(parser(), argv, run)


def run(args: argparse.Namespace, began: float) -> None:
    """Check, then score a file of ratings, or answer and have the answers rated.

    Raises:
        UserError: anything that a person can put right; found before the model is loaded wherever it can be.
    """
    from sharelora.data.vision.bench import read_questions

    folder = _folder(args)
    images = None if args.image_folder is None else Path(args.image_folder)
    questions = command.chosen(args, read_questions(folder, images), lambda question: question.category)
    if args.ratings is not None:
        _score_file(args, questions, began)
        return
    _answer(args, folder, questions, began)


def _folder(args: argparse.Namespace) -> Path:
    if args.bench is None and args.tiny:
        from sharelora.tiny import tiny_vision_data

        return tiny_vision_data() / "llava_bench"
    if args.bench is None:
        raise UserError("found no --bench; need a folder with questions.jsonl and images; pass it, or add --tiny")
    return Path(args.bench)


def _score_file(args: argparse.Namespace, questions: Sequence[BenchQuestion], began: float) -> None:
    from sharelora.data.vision.bench import read_ratings

    if args.judge_url is not None:
        raise UserError("found --ratings and --judge_url; ratings are either there or to be made; drop one")
    numbers = {question.number for question in questions}
    ratings = read_ratings(Path(args.ratings), numbers.__contains__)
    _report(args, None, None, ratings, len(questions), {}, began)


def _answer(args: argparse.Namespace, folder: Path, questions: Sequence[BenchQuestion], began: float) -> None:
    from sharelora.evaluation.generation import GenerationSettings
    from sharelora.evaluation.vision.llava_bench import ANSWERS, answer_rows

    messages = _messages(args, folder, questions)
    subject = command.locate(args, "llava")
    longest = args.max_new_tokens or (TINY_TOKENS if args.tiny else MOST_TOKENS)
    told = GenerationSettings(longest, seed=args.seed)
    asked = _asked(args, subject, questions, told)
    if args.dry_run:
        logger.info("dry run: %s, %d questions; nothing was written", subject, len(questions))
        return
    texts, model = _texts(args, subject, asked, told)
    name = Path(subject.base).name if subject.adapter is None else f"{Path(subject.base).name}+{subject.adapter.name}"
    path = command.write_rows(args, answer_rows(questions, texts, name), ANSWERS)
    print(f"wrote {path}")
    if messages is None:
        print("nothing was rated or scored: pass --judge_url and --judge_model, or --ratings with a judge's reviews")
        return
    answers = {question.number: text.text for question, text in zip(questions, texts, strict=True)}
    ratings = messages.rate(answers)
    metrics = {"tokens": sum(text.tokens for text in texts), "texts": len(texts)}
    _report(args, subject, model, ratings, len(questions), metrics, began)


def _asked(
    args: argparse.Namespace,
    subject: command.Subject,
    questions: Sequence[BenchQuestion],
    told: GenerationSettings,
) -> ImagePrompts:
    from sharelora.evaluation.vision.answers import prompts
    from sharelora.training.vision.data import open_writer

    writer = open_writer(subject.base, args.chat_template)
    return prompts(writer, [question.conversation for question in questions], told, command.room(args, subject))


def _texts(
    args: argparse.Namespace, subject: command.Subject, asked: ImagePrompts, told: GenerationSettings
) -> tuple[list[Generated], Any]:
    """The answers, and the model if one had to be loaded for them."""
    from sharelora.evaluation.generation import TextStore
    from sharelora.evaluation.vision.answers import answer
    from sharelora.models.vision import load_vision_base
    from sharelora.reporting.progress import Progress
    from sharelora.support.files import require_writable

    deciding = {
        **subject.fingerprint(),
        **asked.fingerprint(),
        "bits": args.bits,
        "dtype": args.dtype,
        **told.deciding(),
    }
    store = TextStore(require_writable(args.output), deciding, args.overwrite)
    missing = any((place, 0) not in store.found for place in range(len(asked.records)))
    model = command.load_model(args, subject, load_vision_base) if missing else None
    return answer(model, asked, told, args.batch_size, store, Progress("LLaVA-Bench")), model


def _messages(args: argparse.Namespace, folder: Path, questions: Sequence[BenchQuestion]) -> Any:
    """What is needed to have answers rated, read and checked before any is made; None without a judge."""
    from sharelora.evaluation.vision.judge import Judge, read_rules
    from sharelora.evaluation.vision.rating import read_rated

    if (args.judge_url is None) != (args.judge_model is None):
        raise UserError("found one of --judge_url and --judge_model; need both to have answers rated; add the other")
    if args.judge_url is None:
        return None
    judge = Judge(args.judge_url, args.judge_model, rules=read_rules(args.judge_rules))
    return read_rated(judge, folder, questions, Path(args.output), args.overwrite)


def _report(
    args: argparse.Namespace,
    subject: command.Subject | None,
    model: Any,
    ratings: Sequence[Rating],
    questions: int,
    metrics: dict[str, Any],
    began: float,
) -> None:
    from sharelora.evaluation.vision.llava_bench import Scores

    scores = Scores(ratings, questions)
    rows = [vars(rating) for rating in ratings]
    command.write(args, "llava_bench", subject, model, rows, {**scores.metrics(), **metrics}, time.monotonic() - began)
    print(f"{scores.table()}\nwrote {args.output}")


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
