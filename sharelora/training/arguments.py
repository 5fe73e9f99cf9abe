"""A task's command line: its flags with their defaults, configuration files, and the parsed result."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

from sharelora.flags.adapter import AdapterSettings
from sharelora.flags.fields import add_fields, take
from sharelora.flags.grouping import add_auto_flags
from sharelora.flags.parser import Parser, tiny_environment
from sharelora.flags.settings_file import FILE, read_settings, setting_words
from sharelora.flags.sharing import adapter_settings, add_share_flags
from sharelora.flags.trainer_fields import trainer_fields
from sharelora.flags.upstream import RULES, Rule, modernise
from sharelora.support.lazy import moved_functions
from sharelora.training.options import BaseArguments, RunArguments

CONFIG = f"--{FILE}"
# Folders of what was trained, in the output folder.
ADAPTER = "adapter_model"  # QLoRA's name for the folder
MODEL = "model"
# Settings of the Trainer that every task decides itself, or that are another flag.
DECIDED = frozenset(
    {
        "bf16_full_eval",
        "data_seed",
        "fp16_full_eval",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "include_num_input_tokens_seen",
        "local_rank",
        "parallelism_config",
        "prediction_loss_only",
        "remove_unused_columns",
        "trackio_static_space_id",
        "use_cache",
    }
)
ALIASES: Mapping[str, Sequence[str]] = {
    "activation_checkpointing": ("gradient_checkpointing",),
    "activation_checkpointing_kwargs": ("gradient_checkpointing_kwargs",),
    "adapter": ("checkpoint",),
    "share_groups": ("share_layers",),
}
# How every task logs and reports.
DEFAULTS: Mapping[str, Any] = {
    "report_to": "none",
    # A loss that is NaN or infinite is shown, not replaced by an earlier one.
    "logging_nan_inf_filter": False,
    # A line per logged step takes the place of the progress bars.
    "disable_tqdm": True,
}


@dataclass(frozen=True)
class Arguments:
    """A parsed command line; a task adds a field for each group of its options.

    Attributes:
        model, run: the flags by what they are about.
        train: the Trainer's settings, by their present names.
        adapter_settings: what is adapted and shared.
        values: every flag's value by its name.
        given: the flags that the command line or the configuration file has, without dashes.
        notices: what was renamed, dropped or decided, one line each.
    """

    model: BaseArguments
    run: RunArguments
    train: Mapping[str, Any]
    adapter_settings: AdapterSettings
    values: Mapping[str, Any]
    given: frozenset[str]
    notices: tuple[str, ...]

    @property
    def output_dir(self) -> Path:
        """The run's folder."""
        return Path(self.train["output_dir"]).expanduser()

    @property
    def tiny_base(self) -> bool:
        """Whether the base is the small one that the project makes itself."""
        return self.run.tiny and "model_name_or_path" not in self.given

    @property
    def start(self) -> str | None:
        """What to start from or to evaluate: an adapter, or `none` for the bare base."""
        return self.values.get("adapter")

    @property
    def bits(self) -> int:
        """The base's precision."""
        return int(self.values.get("bits", 32))

    @property
    def full(self) -> bool:
        """Whether every weight of the base is trained."""
        return bool(self.values.get("full_finetune"))

    @property
    def data_seed(self) -> int | None:
        """Seed of the order of the rows; None means `seed`."""
        return self.values.get("data_seed")

    @property
    def row_tokens(self) -> int:
        """Most tokens of a training row."""
        return int(self.values["max_length"])

    @property
    def evaluates(self) -> bool:
        """Whether anything is evaluated: afterwards, or during training."""
        return bool(self.train["do_eval"] or self.train["eval_strategy"] != "no")

    @property
    def packing(self) -> bool:
        """Whether every token of a row is used, so that all are counted."""
        return bool(self.values.get("packing"))

    @property
    def unused_weights(self) -> bool:
        """Whether the model has trained weights that a forward pass may not use."""
        return False

    def to_json(self) -> dict[str, Any]:
        """Return every setting by its flag's name; no token is among them."""
        return {name: value for name, value in sorted(self.values.items()) if not name.endswith("token")}


A = TypeVar("A", bound=Arguments)


def adapter_evaluates(flags: argparse.Namespace, given: Collection[str], notices: list[str]) -> dict[str, Any]:
    """Train nothing where an adapter is given, unless --do_train says so."""
    if flags.adapter is not None and "do_train" not in given:
        flags.do_train = False
        notices.append("an adapter is given, so nothing is trained; --do_train continues its training")
    return {}


@dataclass(frozen=True)
class CommandLine(Generic[A]):
    """What a task's command line consists of.

    Attributes:
        name: of the command.
        purpose: one line for --help.
        arguments: what a parsed command line becomes.
        groups: fields of `arguments` whose fields are flags -> their heading in --help.
        defaults: of any flags, where they differ from the fields'.
        tiny: what --tiny changes where the command line says nothing.
        aliases: other names of a flag.
        rules: old flags and what became of them.
        decided: settings of the Trainer without flag and value: the task decides them.
        fixed: fields without a flag, which keep their default.
        settle: fills in what flags mean together, adds notices, and returns further fields of `arguments`.
        tiny_given: further defaults of --tiny that depend on the flags that are given.
    """

    name: str
    purpose: str
    arguments: type[A]
    groups: Mapping[str, str]
    defaults: Mapping[str, Any]
    tiny: Mapping[str, Any]
    aliases: Mapping[str, Sequence[str]] = field(default_factory=lambda: ALIASES)
    rules: Mapping[str, Rule] = field(default_factory=lambda: RULES)
    decided: frozenset[str] = DECIDED
    fixed: frozenset[str] = frozenset()
    settle: Callable[[argparse.Namespace, frozenset[str], list[str]], Mapping[str, Any]] = adapter_evaluates
    tiny_given: Callable[[frozenset[str]], Mapping[str, Any]] = lambda given: {}

    def build_parser(self) -> Parser:
        """Return the parser with every flag; old ones are handled before it (`sharelora.flags.upstream`)."""
        parser = Parser(self.name, self.purpose)
        parser.add_argument(
            CONFIG, metavar="FILE", help="YAML file of flags without dashes; the command line wins over it"
        )
        for name, title in self.groups.items():
            owner = self._owners[name]
            add_fields(parser, owner, title, skip=self.fixed, aliases=self.aliases)
            fixed = [item for item in dataclasses.fields(owner) if item.name in self.fixed]
            parser.set_defaults(**{item.name: item.default for item in fixed})
        add_share_flags(parser)
        add_auto_flags(parser)
        add_fields(parser, RunArguments, "run")
        add_fields(
            parser, trainer_fields(), "training (transformers)", skip=self.decided | self.fixed, aliases=self.aliases
        )  # fmt: skip
        parser.set_defaults(**{**DEFAULTS, **self.defaults})
        return parser

    @property
    def _owners(self) -> dict[str, Any]:
        return get_type_hints(self.arguments)

    def parse(self, argv: Sequence[str] | None = None) -> A:
        """Read the command line; None means the process's own. A single JSON file is read as --config.

        Raises:
            UserError: an unknown, refused or malformed flag, here or in the configuration file, or flags that
                contradict each other.
        """
        parser = self.build_parser()
        words = list(sys.argv[1:] if argv is None else argv)
        if len(words) == 1 and words[0].endswith(".json"):
            words = [CONFIG, *words]
        words, notices = modernise(with_config(words, parser, self.rules), parser.flags, self.rules)
        flags = parser.parse(words)
        given = given_fields(words, self.aliases)
        if flags.tiny or tiny_environment():
            parser.set_defaults(**{**self.tiny, **self.tiny_given(given)})
            flags = parser.parse([*words, "--tiny", "true"])
        decided = self.settle(flags, given, notices)
        names = {item.name for item in dataclasses.fields(trainer_fields())} - self.decided
        return self.arguments(
            **{name: take(self._owners[name], flags) for name in self.groups},
            run=take(RunArguments, flags),
            train={name: getattr(flags, name) for name in sorted(names)},
            adapter_settings=adapter_settings(flags, measures=True),
            values=dict(vars(flags)),
            given=given,
            notices=tuple(notices),
            **decided,
        )


def given_fields(words: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return the fields that a command line sets, by their own names."""
    others = {other: name for name, names in aliases.items() for other in names}
    names = (word.removeprefix("--") for word in words if word.startswith("--"))
    return frozenset(others.get(name, name) for name in names)


def with_config(words: list[str], parser: Parser, rules: Mapping[str, Rule] = RULES) -> list[str]:
    """Put the words of a configuration file before those of the command line, so that the latter win.

    Args:
        words: the command line.
        parser: knows every flag.
        rules: old flags, which a file may have as well.

    Raises:
        UserError: see `read_settings` and `setting_words` of `sharelora.flags.settings_file`.
    """
    first = Parser(parser.prog, add_help=False)
    first.add_argument(CONFIG)
    known, _ = first.parse_known_args([word for word in words if word not in ("-h", "--help")])
    if not known.config:
        return words
    return [*setting_words(read_settings(known.config), parser, rules, known.config), *words]


if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __getattr__ = moved_functions(__name__)
