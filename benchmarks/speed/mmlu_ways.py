"""The ways that `mmlu.py` compares: the same questions as QLoRA asks them, through lm-eval's `hf` model, and ours."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.harness.machine import OtherLoad, Peak
from benchmarks.speed.timing import now
from sharelora.data.mmlu import load_mmlu
from sharelora.data.questions import Question
from sharelora.evaluation.batching import context_length
from sharelora.evaluation.exams import PreparedExam, PromptWriter, prepare
from sharelora.evaluation.multiple_choice import Choice, score
from sharelora.evaluation.reference import score_one_by_one
from sharelora.evaluation.tokens import Item
from sharelora.models.adapter import load_adapter
from sharelora.models.load import load_base, load_tokenizer
from sharelora.support.errors import UserError
from sharelora.tiny import ensure_tiny, tiny_data

# lm-eval's own prompt, so that what it is compared with is what it does.
PROMPT = "lm_eval"
LM_EVAL = "pip install -e .[lm-eval]"


@dataclass(frozen=True)
class Quiz:
    """A model and its questions.

    Attributes:
        model: a causal language model.
        tokenizer: its own.
        exam: the questions, encoded.
        items: the same as text.
        about: what it is, for the report.
    """

    model: Any
    tokenizer: Any
    exam: PreparedExam
    items: list[Item]
    about: str


def slice_of(questions: Sequence[Question], count: int | None, seed: int) -> list[Question]:
    """Take some questions so that subjects stay together, as in the whole test: subjects in a random order, each whole
    but the last one.

    Args:
        questions: all.
        count: how many; None for all.
        seed: of the order.
    """
    subjects = sorted({question.subject for question in questions})
    random.Random(seed).shuffle(subjects)
    return [q for subject in subjects for q in questions if q.subject == subject][:count]


def load_quiz(args: argparse.Namespace) -> Quiz:
    """Load the model and the questions on the command line.

    Raises:
        UserError: no model named, or something is missing.
    """
    if args.quick:
        args.model, args.data_root = args.model or str(ensure_tiny()), args.data_root or str(tiny_data())
    if not args.model:
        raise UserError("found no model; need --model DIR or --quick; add one")
    tokenizer = load_tokenizer(args.model)
    solved = load_mmlu("dev", args.data_root)
    questions = slice_of(load_mmlu("test", args.data_root), args.items, args.seed)
    device = "auto" if torch.cuda.is_available() else None
    model: Any = load_base(args.model, dtype=args.dtype, device_map=device)
    if args.context:
        model.config.max_position_embeddings = args.context
    if args.adapter:
        model = load_adapter(model, args.adapter)
    exam = prepare(tokenizer, questions, solved, args.shots, context_length(model.config), PROMPT)
    write = PromptWriter(solved, PROMPT)
    items = [write(question, shots) for question, shots in zip(exam.questions, exam.shots, strict=True)]
    about = f"{args.model} with {args.adapter or 'no adapter'}, {args.dtype}, on {model.device.type}"
    return Quiz(model, tokenizer, exam, items, about)


def cost_of_all(tokenizer: Any, args: argparse.Namespace) -> dict[str, int]:
    """Count the tokens of the whole test with every prompt read whole, and with the examples of a subject read once.

    Nothing is shortened: it is what a model with room for all of them would read.
    """
    solved, questions = load_mmlu("dev", args.data_root), load_mmlu("test", args.data_root)
    encoded = prepare(tokenizer, questions, solved, args.shots, None, PROMPT).encoded
    once = sum(map(len, {item.start for item in encoded})) + sum(len(item.rest) for item in encoded)
    return {"questions": len(encoded), "whole": sum(item.length for item in encoded), "shared": once}


def ways(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the ways to compare; lm-eval's is left out with a warning where it is not installed.

    Args:
        names: of some ways; None for all that are installed.

    Raises:
        UserError: an unknown way, or lm-eval is named and not installed.
    """
    chosen = tuple(WAYS) if names is None else tuple(names)
    unknown = [name for name in chosen if name not in WAYS]
    if unknown or "ours" not in chosen:
        raise UserError(f"found --ways {','.join(chosen)}; need some of {', '.join(WAYS)}, ours among them; change it")
    if "lm_eval" in chosen and importlib.util.find_spec("lm_eval") is None:
        if names is not None:
            raise UserError(f"found --ways lm_eval, which is not installed; need it; {LM_EVAL}")
        print(f"warning: lm_eval is not installed, so it is LEFT OUT; {LM_EVAL}")
        chosen = tuple(name for name in chosen if name != "lm_eval")
    return chosen


def one_by_one(quiz: Quiz, args: argparse.Namespace) -> list[Choice]:
    """QLoRA's way: each prompt whole, one per batch, logits at every position."""
    return list(score_one_by_one(quiz.model, quiz.tokenizer, quiz.items).choices)


def ours(quiz: Quiz, args: argparse.Namespace) -> list[Choice]:
    """What eval/mmlu.py does, tokenising included, as in the other ways."""
    return list(score(quiz.model, quiz.tokenizer, quiz.items, args.batch_size).choices)


def lm_eval(quiz: Quiz, args: argparse.Namespace) -> list[Choice]:
    """lm-eval's `hf` model on the same texts; the letters of one question share a pass, as there."""
    # Optional packages.
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    # It warns that a model is passed and not a name, and of the tokenizer's missing start token.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    size, room = args.lm_eval_batch_size, context_length(quiz.model.config)
    harness = HFLM(pretrained=quiz.model, tokenizer=quiz.tokenizer, batch_size=size, max_length=room)
    start = quiz.tokenizer.bos_token or ""
    requests = [
        Instance("loglikelihood", {}, (start + item.prefix + item.text, text), index)
        for index, item in enumerate(quiz.items)
        for text in item.answers
    ]
    answers = iter(harness.loglikelihood(requests, disable_tqdm=True))
    scores = [tuple(next(answers)[0] for _ in item.answers) for item in quiz.items]
    return [Choice(row.index(max(row)), row) for row in scores]


WAYS: dict[str, Callable[[Quiz, argparse.Namespace], list[Choice]]] = {
    "qlora": one_by_one,
    "lm_eval": lm_eval,
    "ours": ours,
}


class Counter:
    """Counts what a model is args while the block runs: `passes`, and `columns`, its rows times their length."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.passes, self.columns = model, 0, 0

    def __enter__(self) -> Counter:
        self._handle = self.model.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._handle.remove()

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.passes += 1
        self.columns += (args[0] if args else kwargs["input_ids"]).numel()


def timed(name: str, quiz: Quiz, args: argparse.Namespace) -> dict[str, Any]:
    """Answer in one way, and measure it; `choices` holds the answers."""
    device = quiz.model.device
    with OtherLoad() as load, Counter(quiz.model) as counter:
        peak = Peak(device)
        began, before = now(device), time.process_time()
        choices = WAYS[name](quiz, args)
        seconds, cpu = now(device) - began, time.process_time() - before
    whole = sum(len(item.prefix) + len(item.text) for item in quiz.items)
    starts = {item.prefix for item in quiz.items}
    once = sum(len(item.text) for item in quiz.items) + sum(map(len, starts))
    return {
        "columns": counter.columns,
        "passes": counter.passes,
        "characters": once if name == "ours" else whole,
        "seconds": seconds,
        # Of all threads; where others use the machine too it says more than the clock.
        "cpu_seconds": cpu,
        "peak_bytes": peak.read() - peak.before,
        "others_percent": load.percent,
        "choices": choices,
    }


def agreement(answers: dict[str, list[Choice]]) -> list[dict[str, Any]]:
    """Compare the answers of each other way with ours, item by item.

    `closest` is the largest difference of log-probability, in the other way, between the two letters of a question on
    which they disagree: in 16 bits as small a one is decided by rounding. `ties` are those of these questions where one
    of the two ways gives both letters the very same score.
    """
    rows = []
    for name, choices in answers.items():
        if name == "ours":
            continue
        pairs = list(zip(choices, answers["ours"], strict=True))
        differ = [(one, other) for one, other in pairs if one.prediction != other.prediction]
        gaps = [abs(a - b) for one, other in pairs for a, b in zip(_centred(one), _centred(other), strict=True)]
        closest = max((max(one.scores) - one.scores[other.prediction] for one, other in differ), default=0.0)
        same = len(pairs) - len(differ)
        ties = sum(_tied(*pair) for pair in differ)
        counts = {"items": len(pairs), "same": same, "ties": ties}
        rows.append({"way": name, **counts, "closest": closest, "score_gap": max(gaps)})
    return rows


def _tied(one: Choice, other: Choice) -> bool:
    """Whether the letters on which two ways disagree are equal to one of them."""
    return any(way.scores[one.prediction] == way.scores[other.prediction] for way in (one, other))


def _centred(choice: Choice) -> list[float]:
    """Scores less their mean: a token that all answers begin with shifts them all."""
    mean = sum(choice.scores) / len(choice.scores)
    return [score - mean for score in choice.scores]
