"""LLaVA-Bench: a model answers questions about images, a judge or a file rates the answers, the ratings are scored."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharelora.data.begin import Beginning
from sharelora.data.vision.bench import BenchQuestion, Rating, read_questions, read_ratings
from sharelora.evaluation.commands import LlavaBenchOptions
from sharelora.evaluation.generation.engine import TextStore
from sharelora.evaluation.generation.settings import Generated, GenerationSettings
from sharelora.evaluation.subject import Subject, locate_subject, write_evaluation, write_records
from sharelora.evaluation.vision.answers import ImagePrompts, answer, prompts
from sharelora.evaluation.vision.judge import Judge, read_rules
from sharelora.evaluation.vision.ratings import JudgedBench, Scores, digest, read_judged_bench
from sharelora.models.vision import load_vision_base, open_writer
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable
from sharelora.tiny import tiny_vision_data

logger = logging.getLogger(__name__)

ANSWERS = "answers.jsonl"
# LLaVA's own script generates as many.
MAX_NEW_TOKENS, TINY_NEW_TOKENS = 1024, 32


def run(options: LlavaBenchOptions, began: float) -> None:
    """Score a file of ratings, or answer and have the answers rated.

    Args:
        options: the flags.
        began: when the command did, by `time.monotonic`.

    Raises:
        UserError: an error that the user can fix; found before the model is loaded wherever possible.
    """
    if options.bench is None and not options.tiny:
        raise UserError("found no --bench; need a folder with questions.jsonl and images; pass it, or add --tiny")
    folder = tiny_vision_data() / "llava_bench" if options.bench is None else Path(options.bench)
    images = None if options.image_folder is None else Path(options.image_folder)
    questions = options.choose(read_questions(folder, images), lambda question: question.category)
    if options.ratings is None:
        _answer(options, folder, questions, began)
        return
    if options.judge_url is not None:
        raise UserError("found --ratings and --judge_url; ratings are either there or to be made; drop one")
    numbers = {question.number for question in questions}
    ratings = read_ratings(Path(options.ratings), numbers.__contains__)
    _report(options, None, None, ratings, len(questions), {}, began)


def _answer(options: LlavaBenchOptions, folder: Path, questions: Sequence[BenchQuestion], began: float) -> None:
    judged = _judged_bench(options, folder, questions)
    subject = locate_subject(options, "llava")
    max_new_tokens = options.max_new_tokens or (TINY_NEW_TOKENS if options.tiny else MAX_NEW_TOKENS)
    settings = GenerationSettings(max_new_tokens, seed=options.seed)
    writer = open_writer(subject.base, options.chat_template)
    records = [question.conversation for question in questions]
    begin = subject.begin(writer.reader.tokenizer, options.bos)
    context = subject.context(options.max_length)
    image_prompts = prompts(writer, records, settings, context, subject.reads(), begin.ids)
    if options.dry_run:
        logger.info("dry run: %s, %d questions; nothing was written", subject, len(questions))
        return
    texts, model = _generate_missing(options, subject, image_prompts, settings)
    name = Path(subject.base).name if subject.adapter is None else f"{Path(subject.base).name}+{subject.adapter.name}"
    print(f"{begin.line()}\nwrote {write_records(options.output, answer_rows(questions, texts, name), ANSWERS)}")
    if judged is None:
        print("nothing was rated or scored: pass --judge_url and --judge_model, or --ratings with a judge's reviews")
        return
    answers = {question.number: text.text for question, text in zip(questions, texts, strict=True)}
    ratings = judged.rate(answers)
    costs = {"tokens": sum(text.tokens for text in texts), "texts": len(texts)}
    _report(options, subject, model, ratings, len(questions), costs, began, begin)


def _judged_bench(options: LlavaBenchOptions, folder: Path, questions: Sequence[BenchQuestion]) -> JudgedBench | None:
    """Read and check all that a judge needs, before any answer is generated; None without a judge."""
    if (options.judge_url is None) != (options.judge_model is None):
        raise UserError("found one of --judge_url and --judge_model; need both to have answers rated; add the other")
    if options.judge_url is None or options.judge_model is None:
        return None
    judge = Judge(options.judge_url, options.judge_model, rules=read_rules(options.judge_rules))
    return read_judged_bench(judge, folder, questions, Path(options.output), options.overwrite)


def _generate_missing(
    options: LlavaBenchOptions, subject: Subject, image_prompts: ImagePrompts, settings: GenerationSettings
) -> tuple[list[Generated], Any]:
    """Return the answers, and the model if one had to be loaded for them."""
    precision = {"bits": options.bits, "dtype": options.dtype}
    deciding = {**subject.fingerprint(), **image_prompts.fingerprint(), **precision, **settings.deciding()}
    store = TextStore(require_writable(options.output), deciding, options.overwrite)
    missing = any((index, 0) not in store.results for index in range(len(image_prompts.records)))
    model = subject.load(options, load_vision_base) if missing else None
    progress = Progress("LLaVA-Bench")
    return answer(model, image_prompts, settings, options.batch_size, store, progress), model


def answer_rows(questions: Sequence[BenchQuestion], texts: Sequence[Generated], model: str) -> list[dict[str, Any]]:
    """Write answers as LLaVA's evaluation does; an answer's id depends only on the question and the answer."""
    return [
        {
            "question_id": question.number,
            "prompt": question.text,
            "text": text.text,
            "answer_id": digest(question.number, text.text),
            "model_id": model,
            "metadata": {"category": question.category, "tokens": text.tokens, "ended": text.ended},
        }
        for question, text in zip(questions, texts, strict=True)
    ]


def _report(
    options: LlavaBenchOptions,
    subject: Subject | None,
    model: Any,
    ratings: Sequence[Rating],
    questions: int,
    costs: Mapping[str, Any],
    began: float,
    begin: Beginning | None = None,
) -> None:
    scores = Scores(ratings, questions)
    rows, metrics = [vars(rating) for rating in ratings], {**scores.metrics(), **costs}
    write_evaluation(options, "llava_bench", subject, model, rows, metrics, time.monotonic() - began, begin)
    print(f"{scores.table()}\nwrote {options.output}")
