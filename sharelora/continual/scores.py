"""How tasks are scored: a table of scores, each with a way to prepare it for every task that has it.

What is prepared is complete: data are read and checked before any model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sharelora.data import build_data
from sharelora.data.gsm8k import STOP as GSM8K_STOP
from sharelora.data.gsm8k import load_gsm8k
from sharelora.data.humaneval import STOP as CODE_STOP
from sharelora.data.humaneval import load_humaneval
from sharelora.evaluation import gsm8k, humaneval
from sharelora.evaluation.exam_report import examine
from sharelora.evaluation.generation import Generated, GenerationSettings, Prompt, TextStore, generate
from sharelora.evaluation.generation.prompts import encode, fingerprint, require_room
from sharelora.evaluation.multiple_choice import context_length
from sharelora.evaluation.sampling import spread
from sharelora.models.known import model_config
from sharelora.reporting.progress import Progress
from sharelora.sandbox import require_sandbox, run_many
from sharelora.support.errors import UserError
from sharelora.training.instructions.job import InstructionArguments, InstructionSession
from sharelora.training.instructions.mmlu import mmlu_exam
from sharelora.training.resolve import data_root

Item = TypeVar("Item")


@dataclass(frozen=True)
class Asked:
    """What a score is prepared from.

    Args:
        name: of the task.
        args: its command line.
        place: the base model's folder or hub id.
        tokenizer: the base's.
        limit: questions at most; None for all.
    """

    name: str
    args: InstructionArguments
    place: str
    tokenizer: Any
    limit: int | None = None

    def chosen(self, items: Sequence[Item]) -> list[Item]:
        """Choose the questions that the limit allows, the same at every stage."""
        return [items[place] for place in spread([""] * len(items), self.limit, self.args.data.data_seed)]


Measure = Callable[[InstructionSession], float]
Prepare = Callable[[Asked], Measure]


@dataclass(frozen=True)
class Score:
    """One way to score tasks.

    Args:
        title: what the numbers are.
        lower_is_better: whether they are losses.
        tasks: name of a task -> prepares its score; a task that is not there has none.
    """

    title: str
    lower_is_better: bool
    tasks: Mapping[str, Prepare]


def answer_loss(asked: Asked) -> Measure:
    """The mean loss of the answers' tokens over the rows that the task's tuning holds out.

    Raises:
        UserError: there are no such rows, or not one of their answers fits into --target_max_len.
    """
    data = build_data(asked.tokenizer, asked.args.data, need_train=False, data_root=data_root(asked.args.run))
    (report,) = data.report.splits
    if report.targets_cut == report.rows:
        raise UserError(
            f"found no answer of {asked.name} within {report.target_limit} tokens, the longest of {report.rows} has "
            f"{report.longest_target}; need whole answers to score; raise --target_max_len"
        )

    def measure(session: InstructionSession) -> float:
        prefix = f"eval_{asked.name}"
        return float(session.trainer.evaluate(data.eval, metric_key_prefix=prefix)[f"{prefix}_loss"])

    return measure


def mmlu_accuracy(asked: Asked) -> Measure:
    """The accuracy on MMLU's validation questions, all alike: instructions have no right answers of their own."""
    args, root = asked.args, data_root(asked.args.run)
    exam = mmlu_exam(
        args.mmlu, asked.tokenizer, asked.place, args.data.data_seed, root, args.model.trust_remote_code
    )  # fmt: skip
    return lambda session: float(examine(session.model, exam, listener=Progress("MMLU")).metrics()["accuracy"])


def gsm8k_accuracy(asked: Asked) -> Measure:
    """The share of test problems whose last number is right, behind as many examples as in the task's tuning."""
    problems = asked.chosen(load_gsm8k("test", data_root(asked.args.run)))
    write = _writer(asked, gsm8k.write_prompts(problems, asked.args.data.few_shot), GSM8K_STOP)
    return lambda session: float(gsm8k.Report(problems, write(session)).metrics()["accuracy_flexible"])


def pass_at_1(asked: Asked) -> Measure:
    """The share of HumanEval's functions whose likeliest completion passes its tests, in the sandbox.

    Raises:
        UserError: programs cannot be run safely here.
    """
    require_sandbox()
    tasks = asked.chosen(load_humaneval(data_root(asked.args.run)))
    write = _writer(asked, humaneval.write_prompts(tasks), CODE_STOP)

    def measure(session: InstructionSession) -> float:
        pairs = zip(tasks, write(session), strict=True)
        outcomes = run_many([(task.program(text.text), task.check) for task, text in pairs])
        return sum(outcome.passed for outcome in outcomes) / len(outcomes)

    return measure


def _writer(
    asked: Asked, prompts: Sequence[Prompt], stop: tuple[str, ...]
) -> Callable[[InstructionSession], Sequence[Generated]]:
    """Return what lets a model write after prompts; texts are on disk as they end, so a killed run goes on.

    Raises:
        UserError: a prompt leaves no room for a text.
    """
    told = GenerationSettings(asked.args.generation.max_new_tokens, stop=stop)
    config = model_config(asked.place, asked.args.model.trust_remote_code)
    require_room(encode(asked.tokenizer, prompts), told, context_length(config))
    deciding = {**told.deciding(), **fingerprint(prompts)}

    def write(session: InstructionSession) -> Sequence[Generated]:
        kept = TextStore(session.args.output_dir / f"texts_{asked.name}", deciding)
        return generate(session.model, asked.tokenizer, prompts, told, store=kept, listener=Progress(asked.name))

    return write


SCORES: dict[str, Score] = {
    "answer_loss": Score(
        "loss per answer token of held-out rows", True, dict.fromkeys(("alpaca", "gsm8k", "code"), answer_loss)
    ),
    "accuracy": Score(
        "accuracy (alpaca: MMLU; gsm8k: last number; code: HumanEval pass@1)",
        False,
        {"alpaca": mmlu_accuracy, "gsm8k": gsm8k_accuracy, "code": pass_at_1},
    ),
}
