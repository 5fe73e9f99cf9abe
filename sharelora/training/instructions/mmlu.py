"""MMLU during training: the accuracy at every evaluation, under QLoRA's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback

from sharelora.data.begin import Beginning
from sharelora.evaluation.exam_report import ExamReport, examine
from sharelora.evaluation.exams import MMLU, PreparedExam, load_exam
from sharelora.models.context import context_of
from sharelora.models.known import model_config
from sharelora.training.instructions.options import MmluArguments

SHOTS = {"mmlu-fs": 5, "mmlu": 5, "mmlu-zs": 0}
ACCURACY, MICRO = "mmlu_{}_accuracy", "mmlu_{}_accuracy_micro"
BEST = "eval_mmlu_accuracy"  # what --metric_for_best_model mmlu_accuracy means


def mmlu_exam(
    flags: MmluArguments,
    tokenizer: Any,
    base: str,
    seed: int,
    data_root: Path | None,
    trust_remote_code: bool = False,
    begin: Sequence[int] | None = None,
) -> PreparedExam:
    """Write the questions of the split that the flags name.

    Args:
        flags: which questions, and how long.
        tokenizer: the base's.
        base: its folder or hub id.
        seed: of the choice of questions.
        data_root: folder of local data.
        trust_remote_code: read a configuration that comes with code.
        begin: what prompts begin with; by default the begin token, as in training.

    Raises:
        UserError: MMLU's data is missing, or no question fits into --mmlu_source_max_len.
    """
    context = context_of(model_config(base, trust_remote_code))
    exam = load_exam(
        MMLU,
        tokenizer,
        flags.split,
        SHOTS[flags.mmlu_dataset],
        min(flags.mmlu_source_max_len, context.tokens or flags.mmlu_source_max_len),
        count=flags.max_mmlu_samples,
        seed=seed,
        root=data_root,
        # A few questions that do not fit are no reason not to train.
        leave_out=True,
        begin=begin,
    )
    rows = (prompt.ids + prompt.answers for prompt in exam.encoded)
    context.require_embeddings(tokenizer, rows, f"{len(exam.encoded):,} questions")
    return exam


class MmluEval(TrainerCallback):
    """Let the model answer the exam at every evaluation.

    Args:
        exam: the questions.
        split: its name in the metrics.
        begin: what its prompts begin with.

    Attributes:
        log: takes the summary; to be set to the Trainer's `log`.
    """

    def __init__(self, exam: PreparedExam, split: str, begin: Beginning) -> None:
        self.exam, self.split, self.begin = exam, split, begin
        self.log: Callable[[dict[str, float]], None] = lambda logs: None

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        metrics: dict[str, Any] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Add the accuracies to the evaluation's metrics."""
        accuracies = named(_examine_together(model, self.exam), self.split)
        if metrics is not None:
            metrics.update(accuracies, prompts_begin=self.begin.to_json())
            if self.split != "test":
                metrics[BEST] = accuracies[ACCURACY.format(self.split)]
        self.log(
            {name: accuracies[name] for name in ("mmlu_loss", ACCURACY.format(self.split), MICRO.format(self.split))}
        )


def named(report: ExamReport, split: str) -> dict[str, float]:
    """Return a report under QLoRA's names: the accuracy of all is the unweighted mean over subjects, as there.

    Its `mmlu_loss` is the mean of -log p of the right letter; QLoRA adds the end token to it.
    """
    every = report.metrics()
    return {
        "mmlu_loss": every["loss"],
        ACCURACY.format(split): every["accuracy_macro"],
        MICRO.format(split): every["accuracy"],
        **{f"mmlu_{split}_accuracy_{name}": scores["accuracy"] for name, scores in every["subjects"].items()},
    }


def _examine_together(model: Any, exam: PreparedExam) -> ExamReport:
    """Each process answers a stretch of the questions, so that subjects stay together; all get the whole report."""
    state = PartialState()
    if state.num_processes == 1:
        return examine(model, exam)
    count = len(exam.questions)
    bounds = [count * rank // state.num_processes for rank in range(state.num_processes + 1)]
    mine = range(bounds[state.process_index], bounds[state.process_index + 1])
    part = examine(model, exam.only(mine))
    choices = tuple(gather_object(list(part.scored.choices)))
    return ExamReport(exam, replace(part.scored, choices=choices), part.seconds)
