"""The scores of tasks: a table of scores, each with a way to prepare it for every task that has it.

What is prepared is complete: data are read and checked before any model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sharelora.data import build_data
from sharelora.data.begin import Beginning, begin_token
from sharelora.data.context import Context
from sharelora.data.gsm8k import STOP as GSM8K_STOP
from sharelora.data.gsm8k import load_gsm8k
from sharelora.data.humaneval import STOP as CODE_STOP
from sharelora.data.humaneval import load_humaneval
from sharelora.evaluation import gsm8k, humaneval
from sharelora.evaluation.commands import spread
from sharelora.evaluation.exam_report import examine
from sharelora.evaluation.generation.engine import TextStore, generate
from sharelora.evaluation.generation.settings import (
    Generated,
    GenerationSettings,
    Prompt,
    encode,
    fingerprint,
    require_room,
)
from sharelora.evaluation.subject import data_root
from sharelora.models.context import context_of
from sharelora.models.known import model_config
from sharelora.reporting.progress import Progress
from sharelora.sandbox import require_sandbox, run_many
from sharelora.support.errors import UserError
from sharelora.training.instructions.job import InstructionArguments, InstructionSession
from sharelora.training.instructions.mmlu import mmlu_exam

Item = TypeVar("Item")


@dataclass(frozen=True)
class TaskSetup:
    """One task, from which its score is prepared.

    Args:
        name: of the task.
        args: its command line.
        base: the base model's folder or hub id.
        tokenizer: the base's.
        limit: most questions; None for all.
    """

    name: str
    args: InstructionArguments
    base: str
    tokenizer: Any
    limit: int | None = None

    @property
    def data_root(self) -> Path | None:
        """The folder of local data; None for what the environment or the hub has."""
        return data_root(None, self.args.run.tiny)

    @property
    def begin(self) -> Beginning:
        """What prompts of exams begin with at every stage, that of the untouched model too: as rows of the tuning."""
        return Beginning.choose(self.tokenizer, self.args.mmlu.bos, tuned=True)

    @property
    def context(self) -> Context:
        """What the model can read."""
        return context_of(model_config(self.base, self.args.model.trust_remote_code))

    def choose(self, items: Sequence[Item]) -> list[Item]:
        """Choose the questions that the limit allows, the same at every stage."""
        return [items[index] for index in spread([""] * len(items), self.limit, self.args.data.data_seed)]


Measure = Callable[[InstructionSession], float]
Prepare = Callable[[TaskSetup], Measure]


@dataclass(frozen=True)
class Score:
    """One way to score tasks.

    Args:
        title: of the numbers.
        lower_is_better: whether they are losses.
        tasks: name of a task -> prepares its score; tasks without this score are missing.
        asks: whether they are exams, whose prompts `--bos` is about.
    """

    title: str
    lower_is_better: bool
    tasks: Mapping[str, Prepare]
    asks: bool = False


def answer_loss(task: TaskSetup) -> Measure:
    """The mean loss of the answers' tokens over the rows that the task's tuning holds out.

    Raises:
        UserError: there are no such rows, or not one of their answers fits into --target_max_len.
    """
    data = build_data(task.tokenizer, task.args.data, need_train=False, data_root=task.data_root, context=task.context)
    (report,) = data.report.splits
    if report.targets_cut == report.rows:
        raise UserError(
            f"found no answer of {task.name} within {report.target_limit} tokens, the longest of {report.rows} has "
            f"{report.longest_target}; need whole answers to score; raise --target_max_len"
        )

    def measure(session: InstructionSession) -> float:
        prefix = f"eval_{task.name}"
        return float(session.trainer.evaluate(data.eval, metric_key_prefix=prefix)[f"{prefix}_loss"])

    return measure


def mmlu_accuracy(task: TaskSetup) -> Measure:
    """The accuracy over all of MMLU's validation questions: instructions themselves have no right answers."""
    args = task.args
    exam = mmlu_exam(
        args.mmlu,
        task.tokenizer,
        task.base,
        args.data.data_seed,
        task.data_root,
        args.model.trust_remote_code,
        task.begin.ids,
    )
    return lambda session: float(examine(session.model, exam, listener=Progress("MMLU")).metrics()["accuracy"])


def gsm8k_accuracy(task: TaskSetup) -> Measure:
    """The share of test problems whose last number is right, behind as many examples as in the task's tuning."""
    problems = task.choose(load_gsm8k("test", task.data_root))
    write = _text_writer(task, gsm8k.write_prompts(problems, task.args.data.few_shot), GSM8K_STOP)
    return lambda session: float(gsm8k.Gsm8kReport(problems, write(session)).metrics()["accuracy_flexible"])


def pass_at_1(task: TaskSetup) -> Measure:
    """The share of HumanEval's functions whose likeliest completion passes its tests, in the sandbox.

    Raises:
        UserError: programs cannot be run safely on this machine.
    """
    require_sandbox()
    functions = task.choose(load_humaneval(task.data_root))
    write = _text_writer(task, humaneval.write_prompts(functions), CODE_STOP)

    def measure(session: InstructionSession) -> float:
        pairs = zip(functions, write(session), strict=True)
        outcomes = run_many([(function.program(text.text), function.check) for function, text in pairs])
        return sum(outcome.passed for outcome in outcomes) / len(outcomes)

    return measure


def _text_writer(
    task: TaskSetup, prompts: Sequence[Prompt], stop: tuple[str, ...]
) -> Callable[[InstructionSession], Sequence[Generated]]:
    """Return a function that lets a model continue prompts; its texts are on disk as they end.

    Raises:
        UserError: a prompt leaves no room for a text.
    """
    settings = GenerationSettings(task.args.generation.max_new_tokens, stop=stop)
    begin = task.begin.ids
    encoded = encode(task.tokenizer, prompts, begin)
    require_room(encoded, settings, task.context.tokens)
    task.context.require_embeddings(task.tokenizer, [prompt.ids for prompt in encoded], f"{len(encoded):,} prompts")
    own = {} if list(begin) == begin_token(task.tokenizer) else {"begin": list(begin)}
    deciding = {**settings.deciding(), **fingerprint(prompts), **own}

    def write(session: InstructionSession) -> Sequence[Generated]:
        store = TextStore(session.args.output_dir / f"texts_{task.name}", deciding)
        listener = Progress(task.name)
        return generate(session.model, task.tokenizer, prompts, settings, store=store, listener=listener, begin=begin)

    return write


SCORES: dict[str, Score] = {
    "answer_loss": Score(
        "loss per answer token of held-out rows", True, dict.fromkeys(("alpaca", "gsm8k", "code"), answer_loss)
    ),
    "accuracy": Score(
        "accuracy (alpaca: MMLU; gsm8k: last number; code: HumanEval pass@1)",
        False,
        {"alpaca": mmlu_accuracy, "gsm8k": gsm8k_accuracy, "code": pass_at_1},
        asks=True,
    ),
}
