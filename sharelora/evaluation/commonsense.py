"""Commonsense tasks answered in two ways: by the likelihood of the answer words, and by what the model writes.

Both see the Alpaca prompt that tuning uses. LLM-Adapters scores what is written (there with a beam search of width 4;
here greedy or sampled). A text without any answer word is wrong, and counted.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharelora.data.commonsense import LEAD, CommonsenseItem, find_answer, load_commonsense
from sharelora.data.formats import FORMATS
from sharelora.evaluation.batching import Listener
from sharelora.evaluation.commands import CommonsenseOptions
from sharelora.evaluation.generation.job import TEXTS, generate_texts, prepare_generation, write_texts
from sharelora.evaluation.generation.settings import Generated, Prompt
from sharelora.evaluation.likelihood import Prepared, prepare_answers, score_answers
from sharelora.evaluation.subject import data_root, locate_subject, write_evaluation
from sharelora.evaluation.tokens import Item
from sharelora.metrics import accuracy
from sharelora.models.load import load_tokenizer
from sharelora.reporting.progress import Progress
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable

logger = logging.getLogger(__name__)


def run(options: CommonsenseOptions, began: float) -> None:
    """Answer in each way that the flags name, score, write and print.

    Args:
        options: the flags.
        began: when the command did, by `time.monotonic`.

    Raises:
        UserError: an error that the user can fix; found before the model is loaded wherever possible.
    """
    if options.generate_only and options.by == "likelihood":
        raise UserError("found --generate_only with --by likelihood, which writes no texts; need one; leave one out")
    if options.engine == "vllm" and options.by != "generated" and not options.generate_only:
        raise UserError(f"found --engine vllm with --by {options.by}; need only texts; pass --by generated")
    subject = locate_subject(options)
    root = data_root(options.data_root, options.tiny)
    items = options.choose(load_commonsense(options.tasks, root), lambda item: item.task)
    job = prepared = begin = None
    if options.by != "likelihood":
        job = prepare_generation(options, subject, questions(items))
        begin = job.begin
    if options.by != "generated" and not options.generate_only:
        tokenizer = load_tokenizer(subject.base)
        begin = subject.begin(tokenizer, options.bos)
        prepared = prepare_answers(tokenizer, choices(items), subject.context(options.max_length), begin.ids)
        subject.require_embeddings(tokenizer, prepared.encoded)
    if options.dry_run:
        logger.info("dry run: %s, %d questions; nothing was written", subject, len(items))
        return
    require_writable(options.output)
    result = None if job is None else generate_texts(job, "writing")
    if job is not None and result is not None and options.generate_only:
        rows = [text_row(item, text) for item, text in zip(items, result.texts, strict=True)]
        print(f"{write_texts(job, result, rows, TEXTS)}; nothing was scored")
        return
    model = None if result is None else result.model
    ways: dict[str, Answers] = {}
    if prepared is not None:
        model = subject.load(options) if model is None else model
        ways["likelihood"] = answer_by_likelihood(model, items, prepared, options.batch_size, Progress("likelihood"))
    if result is not None:
        ways["generated"] = answer_by_writing(items, result.texts, result.metrics())
    metrics = {name: way.metrics(items) for name, way in ways.items()}
    # Also under one name each, for comparisons of runs.
    every = {**{f"commonsense_{name}": way["accuracy"] for name, way in metrics.items()}, **metrics}
    rows = records(items, ways)
    write_evaluation(options, "commonsense", subject, model, rows, every, time.monotonic() - began, begin)
    assert begin is not None, "there is at least one way to answer"
    print(f"{table(metrics)}\n{begin.line()}")
    print(f"wrote {options.output}")


@dataclass(frozen=True)
class Answers:
    """A model's answers in one way.

    Args:
        predictions: the answer to each item; None for a text without one, which counts as wrong.
        rows: further facts for the record of each item.
        costs: tokens, and further counts.
        seconds: wall clock time; for texts of several runs that of all of them.
    """

    predictions: tuple[str | None, ...]
    rows: tuple[dict[str, Any], ...]
    costs: dict[str, Any]
    seconds: float

    def metrics(self, items: Sequence[CommonsenseItem]) -> dict[str, Any]:
        """Every number: the mean over tasks, as papers report it, the mean over questions, and each task's."""
        right = [prediction == item.answer for prediction, item in zip(self.predictions, items, strict=True)]
        tasks = accuracy.by_group(right, [item.task for item in items])
        micro = accuracy.micro(tasks)
        options: dict[str, list[int]] = {}
        for item in items:
            options.setdefault(item.task, []).append(len(item.answers))
        return {
            "accuracy": accuracy.macro(tasks),
            "accuracy_stderr": accuracy.macro_standard_error(tasks),
            "accuracy_micro": micro.mean,
            "accuracy_micro_stderr": micro.standard_error,
            # The mean over tasks of guessing one of the words.
            "chance": math.fsum(map(accuracy.chance, options.values())) / len(options),
            "questions": micro.count,
            "right": micro.right,
            **self.costs,
            "seconds": self.seconds,
            "tasks": accuracy.table(tasks),
        }


def prompts(items: Sequence[CommonsenseItem]) -> list[tuple[str, str]]:
    """The prompt of each item in two parts: what all prompts of its task begin with, and the rest."""
    view = FORMATS["alpaca"][0]
    texts = [view.prompt({"instruction": item.instruction, "input": item.input}) for item in items]
    by_task: dict[str, list[str]] = {}
    for item, text in zip(items, texts, strict=True):
        by_task.setdefault(item.task, []).append(text)
    starts = {task: _beginning(own) for task, own in by_task.items()}
    pairs = zip([starts[item.task] for item in items], texts, strict=True)
    return [(start, text.removeprefix(start)) for start, text in pairs]


def _beginning(texts: Sequence[str]) -> str:
    """What all texts begin with, up to a space: no token spans two words."""
    # Whatever the least and the greatest text share, all texts between them share too.
    pairs = enumerate(zip(first := min(texts), max(texts), strict=False))
    return first[: next((index for index, (a, b) in pairs if a != b), len(first))].rpartition(" ")[0]


def choices(items: Sequence[CommonsenseItem]) -> list[Item]:
    """Items as multiple choice, with the texts that tuning teaches as answers."""
    return [
        Item(prefix, text, tuple(LEAD + word for word in item.answers), item.task)
        for item, (prefix, text) in zip(items, prompts(items), strict=True)
    ]


def questions(items: Sequence[CommonsenseItem]) -> list[Prompt]:
    """Items as prompts for generation; an item's random numbers depend on its instruction, not on its index."""
    return [Prompt(*pair, item.instruction) for item, pair in zip(items, prompts(items), strict=True)]


def answer_by_likelihood(
    model: Any,
    items: Sequence[CommonsenseItem],
    prepared: Prepared,
    batch_size: int | str = "auto",
    listener: Listener | None = None,
) -> Answers:
    """Answer with the word that is most likely after `the correct answer is`.

    Args:
        model, batch_size, listener: see `sharelora.evaluation.likelihood.score_answers`.
        items: the questions.
        prepared: the same, tokenised: `prepare_answers` of their `choices`.

    Raises:
        UserError: see there.
    """
    began = time.perf_counter()
    scored = score_answers(model, prepared, batch_size, listener=listener)
    pairs = list(zip(items, scored.choices, strict=True))
    ties = sum(choice.tied for choice in scored.choices)
    return Answers(
        tuple(item.answers[choice.prediction] for item, choice in pairs),
        tuple({"scores": dict(zip(item.answers, choice.scores, strict=True))} for item, choice in pairs),
        {"tokens": scored.tokens, "prompt_tokens": scored.prompt_tokens, "ties": ties},
        time.perf_counter() - began,
    )


def answer_by_writing(
    items: Sequence[CommonsenseItem], texts: Sequence[Generated], costs: Mapping[str, Any]
) -> Answers:
    """Answer with the first answer word that the model wrote.

    Args:
        items: the questions.
        texts: what it wrote after the prompt of each.
        costs: of the generation, its tokens among them.
    """
    predictions = tuple(find_answer(item.task, text.text) for item, text in zip(items, texts, strict=True))
    return Answers(
        predictions,
        tuple(text.to_json() for text in texts),
        {**costs, "unanswered": predictions.count(None)},
        sum(text.seconds for text in texts),
    )


def text_row(item: CommonsenseItem, text: Generated) -> dict[str, Any]:
    """The record of an item whose text is not scored."""
    return {"task": item.task, "instruction": item.instruction, "answer": item.answer, **text.to_json()}


def records(items: Sequence[CommonsenseItem], ways: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """One record per question, with the answer of each way.

    Args:
        items: the questions.
        ways: name -> answers.
    """
    rows = []
    for index, item in enumerate(items):
        row: dict[str, Any] = {"task": item.task, "instruction": item.instruction, "answer": item.answer}
        for name, way in ways.items():
            prediction = way.predictions[index]
            row[name] = {"prediction": prediction, "right": prediction == item.answer, **way.rows[index]}
        rows.append(row)
    return rows


def table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The result in a few lines, with a column for each way."""
    lines = ["commonsense" + "".join(f"{name:>22}" for name in metrics) + f"{'questions':>12}"]
    (first, *_) = metrics.values()
    for task in first["tasks"]:
        cells = [_cell(way["tasks"][task]["accuracy"], way["tasks"][task]["stderr"]) for way in metrics.values()]
        lines.append(f"{task:<15}{''.join(cells)}{first['tasks'][task]['count']:>8,}")
    cells = [_cell(way["accuracy"], way["accuracy_stderr"]) for way in metrics.values()]
    lines.append(f"{'mean over tasks':<15}{''.join(cells)}{first['questions']:>8,}")
    lines.append(f"{'guessing':<15}{first['chance']:>13.4f}")
    for name, way in metrics.items():
        lost = f"; {way['unanswered']} texts WITHOUT AN ANSWER counted as wrong" if way.get("unanswered") else ""
        lines.append(f"{name}: {way['tokens']:,} tokens in {way['seconds']:.1f} s{lost}")
    return "\n  ".join(lines)


def _cell(mean: float, error: float | None) -> str:
    return f"{mean:>13.4f} " + (" " * 8 if error is None else f"± {error:.4f}")
