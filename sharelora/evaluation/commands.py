"""The evaluation commands: their flags as frozen dataclasses, and which module runs each.

Loads neither torch nor transformers, so that a mistake on the command line is reported at once; a command's module is
imported once its command line has been read.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from sharelora.data import begin, gsm8k, humaneval
from sharelora.flags.fields import add_fields, help_field, take
from sharelora.flags.parser import NO_ADAPTER, Parser, positive, tiny_environment
from sharelora.flags.ranges import SEED
from sharelora.sandbox import BUBBLEWRAP, MODES, RLIMITS
from sharelora.support.errors import UserError
from sharelora.support.files import vanishing

Item = TypeVar("Item")

PREDICTIONS = "predictions.jsonl"
# How many items a tiny run asks, unless --limit says otherwise.
TINY_LIMIT = 64


@dataclass(frozen=True)
class Options:
    """The flags of every evaluation command."""

    model: str | None = help_field(
        None, "folder or hub id of the base model; by default the one that the adapter was trained on"
    )
    adapter: str | None = help_field(
        None, f"an adapter, of this project or of plain PEFT, or a run's folder; {NO_ADAPTER}: the bare base"
    )
    output: str = help_field("runs/evaluation", f"folder for {PREDICTIONS} and result.json")
    limit: int | None = help_field(None, "number of items (questions, tasks), chosen by --seed", type=positive)
    seed: int = help_field(0, "random seed for --limit and sampling", type=SEED)
    batch_size: int | str = help_field("auto", "items at once, or auto; affects only speed")
    max_length: int | None = help_field(
        None, "most tokens that the model reads, if less than its context", type=positive
    )
    data_root: str | None = help_field(None, "folder of data sets; by default SHARELORA_DATA, else the hub")
    bits: int = help_field(16, "precision of the base; 4 and 8 quantise it", type=int, choices=(4, 8, 16, 32))
    dtype: str = help_field("auto", "of weights, or of 4-bit arithmetic", choices=("auto", "bf16", "fp16", "fp32"))
    bos: str = help_field(
        begin.AUTO,
        "begin token before prompts: always, never, or auto: as an adapter of this project was tuned, else as the "
        "tokenizer writes texts",
        choices=begin.CHOICES,
    )
    tiny: bool = help_field(tiny_environment, "use the project's own small model and data, and few items")
    dry_run: bool = help_field(False, "find model, adapter and items, write nothing, and stop before loading weights")

    @property
    def count(self) -> int | None:
        """How many items the flags name; None for all."""
        return self.limit or (TINY_LIMIT if self.tiny else None)

    def choose(self, items: Sequence[Item], group: Callable[[Item], str] = lambda item: "") -> list[Item]:
        """Choose the items that the flags name, in their order and evenly from all groups.

        Args:
            items: all there are.
            group: names an item's group; by default all items are one.
        """
        return [items[index] for index in spread([group(item) for item in items], self.count, self.seed)]


def spread(groups: Sequence[str], count: int | None, seed: int = 0) -> list[int]:
    """Choose a sample that is spread evenly over groups and depends only on the seed.

    Groups in a random order each give one random item in turn; a longer sample contains every shorter one.

    Args:
        groups: the group of each item.
        count: how many to choose; None, or more than there are, takes all.
        seed: of the choice.

    Returns:
        The indices of the chosen items, in order.

    Raises:
        UserError: a count below 1.
    """
    if count is not None and count < 1:
        raise UserError(f"found a limit of {count} questions; need at least 1; leave it out to ask all")
    if count is None or count >= len(groups):
        return list(range(len(groups)))
    rng = random.Random(seed)
    members: dict[str, list[int]] = {}
    for index in rng.sample(range(len(groups)), len(groups)):
        members.setdefault(groups[index], []).append(index)
    names = sorted(members)
    rng.shuffle(names)
    turns = ((turn, order, members[name]) for order, name in enumerate(names) for turn in range(count))
    ranked = sorted((turn, order, own[turn]) for turn, order, own in turns if turn < len(own))
    return sorted(index for _, _, index in ranked[:count])


def names(text: str) -> tuple[str, ...]:
    """Read names separated by commas."""
    parts = tuple(name.strip() for name in text.split(","))
    if not all(parts):
        raise argparse.ArgumentTypeError(f"found {text!r}; need names separated by commas")
    return parts


@dataclass(frozen=True)
class GenerationOptions(Options):
    """The flags of a command that generates texts."""

    max_new_tokens: int = help_field(512, "most tokens of a text")
    temperature: float = help_field(0.0, "0 takes the likeliest token, more samples")
    top_p: float = help_field(1.0, "sample from the likeliest tokens whose probabilities add up to this")
    stop: Sequence[str] = help_field(
        (), "a text ends before these; \\n is the end of a line", nargs="*", metavar="TEXT"
    )
    engine: str = help_field(
        "hf", "what generates; vllm must be installed, and its samples differ", choices=("hf", "vllm")
    )
    generate_only: bool = help_field(False, "write the texts and stop")
    overwrite: bool = help_field(False, "start again where texts were generated with other settings")


@dataclass(frozen=True)
class Gsm8kOptions(GenerationOptions):
    """The flags of GSM8K."""

    shots: int = help_field(
        gsm8k.SHOTS,
        "worked examples shown first",
        type=int,
        choices=range(gsm8k.SHOTS + 1),
        metavar=f"0-{gsm8k.SHOTS}",
    )
    split: str = help_field("test", "questions to ask", choices=("train", "test"))


@dataclass(frozen=True)
class HumanEvalOptions(GenerationOptions):
    """The flags of HumanEval."""

    samples: int = help_field(1, "completions per task", type=positive)
    k: Sequence[int] = help_field(lambda: [1], "every k of pass@k", type=positive, nargs="+")
    samples_file: str | None = help_field(
        None, "test these completions (task_id, completion) and generate none", metavar="FILE"
    )
    sandbox: str = help_field(BUBBLEWRAP, f"where programs run; {RLIMITS} protects no files", choices=list(MODES))
    seconds: float = help_field(3.0, "time limit of a program")
    workers: int = help_field(lambda: os.cpu_count() or 1, "programs at once", type=positive)


@dataclass(frozen=True)
class CommonsenseOptions(GenerationOptions):
    """The flags of the commonsense tasks."""

    tasks: tuple[str, ...] | None = help_field(
        None, "some of the tasks; by default all eight", type=names, metavar="A,B"
    )
    by: str = help_field("both", "what counts as the model's answer", choices=("likelihood", "generated", "both"))


@dataclass(frozen=True)
class LlavaBenchOptions(Options):
    """The flags of LLaVA-Bench."""

    bench: str | None = help_field(None, "folder of questions.jsonl, images, and what a judge is shown")
    image_folder: str | None = help_field(None, "folder of the images; by default `images` in --bench")
    max_new_tokens: int | None = help_field(
        None, "most tokens of an answer; 1024 if not given, 32 with --tiny", type=positive
    )
    chat_template: str | None = help_field(
        None, "`vicuna`, `own` or a Jinja file; by default vicuna for LLaVA, else the model's own"
    )
    ratings: str | None = help_field(None, "a judge's reviews in LLaVA's form: score them, without any model")
    judge_url: str | None = help_field(
        None, "base URL, without /chat/completions, of a server of OpenAI's chat completions that rates the answers"
    )
    judge_model: str | None = help_field(None, "the judge's name there")
    judge_rules: str | None = help_field(None, "LLaVA's rule.json, for its wording of the judge's task")
    overwrite: bool = help_field(False, "start again where answers or ratings were made with other settings")


@dataclass(frozen=True)
class Command:
    """One evaluation command.

    Args:
        name: its file's, and the kind of its result.
        description: one line for `--help`.
        options: its flags.
        module: has `run`, which takes the options and the time at which the command began, by `time.monotonic`.
        defaults: of flags, where the command has its own.
    """

    name: str
    description: str
    options: type[Options]
    module: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def parser(self, skip: Collection[str] = ()) -> Parser:
        """Return the parser with every flag of this command, except fields of its options to skip."""
        parser = Parser(f"{self.name}.py", self.description)
        add_fields(parser, Options, "model, data and output")
        shared = {field.name for field in fields(Options)}
        add_fields(parser, self.options, "this benchmark", {*shared, *skip})
        parser.set_defaults(output=f"runs/{self.name}", **self.defaults)
        return parser

    def parse(self, argv: Sequence[str] | None = None) -> Options:
        """Read a command line; None means the process's own.

        Raises:
            UserError: an unknown flag, or a malformed value.
        """
        options: Options = take(self.options, self.parser().parse(argv))
        return options

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Read a command line and run."""
        began = time.monotonic()
        options = self.parse(argv)
        # Both load torch and transformers, which a mistake on the command line need not wait for.
        from sharelora.flags import program

        def run(options: Options) -> None:
            with vanishing(options.output):
                self.run(options, began)

        program.start(lambda: options, run)

    def run(self, options: Options, began: float) -> None:
        """Run what the options name.

        Raises:
            UserError: an error that the user can fix; found before a model is loaded wherever possible.
        """
        importlib.import_module(self.module).run(options, began)


def _shown(stop: Sequence[str]) -> list[str]:
    """Stop strings as they are typed on a command line."""
    return [text.replace("\n", "\\n") for text in stop]


GSM8K = Command(
    "gsm8k",
    "Accuracy on GSM8K, and every worked answer.",
    Gsm8kOptions,
    "sharelora.evaluation.gsm8k",
    {"stop": _shown(gsm8k.STOP)},
)
HUMANEVAL = Command(
    "humaneval",
    "pass@k on HumanEval, and every completion with its outcome.",
    HumanEvalOptions,
    "sharelora.evaluation.humaneval",
    {"stop": _shown(humaneval.STOP)},
)
COMMONSENSE = Command(
    "commonsense",
    "Accuracy on eight commonsense tasks, and every answer.",
    CommonsenseOptions,
    "sharelora.evaluation.commonsense",
    # Enough for `the correct answer is answer2`, which is what tuning teaches.
    {"max_new_tokens": 32},
)
LLAVA_BENCH = Command(
    "llava_bench",
    "Answers to LLaVA-Bench, and the score of a judge's ratings.",
    LlavaBenchOptions,
    "sharelora.evaluation.vision.llava_bench",
)
