"""The `sharelora` command: which subcommands there are, and starting the one that is named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from sharelora import __version__
from sharelora.flags.parser import Parser
from sharelora.support.errors import UserError, run_main
from sharelora.support.text import columns, nearest


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        module: its file in this package, imported when the command is called; for a command `x` it has
            `add_x_flags(parser)` and `run_x(args)`.
        purpose: what it does, in a line.
        example: how it is called.
    """

    module: str
    purpose: str
    example: str


COMMANDS = {
    "plan": Command(
        "plan",
        "print which matrices a model's adapters use and share, with exact counts; no weights are read",
        "sharelora plan --model llama3-8b --lora_modules all --share a --lora_r 64",
    ),
    "estimate": Command(
        "estimate",
        "print the memory that training would take, against what this machine has",
        "sharelora estimate --model llama3-8b --share a --bits 4 --batch 1 --tokens 1024",
    ),
    "similarity": Command(
        "similarity",
        "measure how similar a model's layers are, and group those that may share",
        "sharelora similarity --model DIR --sample texts.txt --output runs/similarity",
    ),
    "groups": Command(
        "similarity",
        "group the layers of measured similarities by another threshold, number or method",
        "sharelora groups runs/similarity/similarity.json --grouping optimal --distinct_layers 20",
    ),
    "inspect": Command(
        "adapters",
        "look into an adapter: plan, sizes, norms, and whether it is complete",
        "sharelora inspect runs/share/alpaca_llama3_8b_full",
    ),
    "export": Command(
        "adapters",
        "write an adapter as a plain PEFT LoRA, which stock PEFT and servers read",
        "sharelora export runs/share/alpaca_llama3_8b_full plain_lora",
    ),
    "merge": Command(
        "adapters",
        "write a plain model: the base with the adapter in its weights",
        "sharelora merge models/llama3-8b runs/share/alpaca_llama3_8b_full merged",
    ),
    "import": Command(
        "adapters",
        "take over a plain LoRA whose matrices already agree with a sharing plan",
        "sharelora import plain_lora compact --base models/llama3-8b --share a",
    ),
    "compress": Command(
        "adapters",
        "turn a LoRA into the nearest one that shares its matrices, and report the error",
        "sharelora compress plain_lora compact --base models/llama3-8b --share a --energy 0.99",
    ),
    "compare": Command(
        "runs",
        "print runs side by side, ours and upstream's",
        "sharelora compare runs/* --by_seed",
    ),
    "ablate": Command(
        "runs",
        "train a grid of settings, the cheapest first, and draw what each changes",
        "sharelora ablate scripts/ablation/rank.yaml --output runs/rank",
    ),
    "figures": Command(
        "figures",
        "draw the papers' figures from results, adapters or estimates",
        "sharelora figures memory --model llama3-70b --bits 4 --out memory",
    ),
}


def _usage() -> str:
    lines = columns([(name, command.purpose) for name, command in COMMANDS.items()], left=2)
    head = "usage: sharelora COMMAND ...   (sharelora COMMAND --help for its flags; sharelora --version)"
    return "\n".join([head, "", *(f"  {line}" for line in lines)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command and its flags; None takes the process's own.

    Returns:
        The exit code.

    Raises:
        UserError: an unknown command or flag, or bad input.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name = words[0]
    if name == "--version":
        print(f"sharelora {__version__}")
        return 0
    if name not in COMMANDS:
        near = nearest(name, COMMANDS, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"found command {name!r}; need one of {', '.join(COMMANDS)}{hint}")
    command = COMMANDS[name]
    module = import_module(f"{__package__}.{command.module}")
    parser = Parser(f"sharelora {name}", command.purpose, epilog=f"example: {command.example}")
    getattr(module, f"add_{name}_flags")(parser)
    getattr(module, f"run_{name}")(parser.parse(words[1:]))
    return 0


def entry() -> NoReturn:
    """Run as a program: bad input ends with one line and exit code 2."""
    run_main(main)


if __name__ == "__main__":
    entry()
