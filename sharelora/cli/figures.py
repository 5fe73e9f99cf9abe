"""`sharelora figures`: the papers' figures, each with its own flags."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sharelora.cli.estimate import add_load_flags
from sharelora.flags.parser import Parser, positive
from sharelora.flags.sharing import parse_modules
from sharelora.memory.estimator import estimate
from sharelora.models.known import meta_model
from sharelora.reporting.figures.experiments import Experiment, read_experiments
from sharelora.reporting.figures.scores import draw_parameters, draw_seeds, draw_steps
from sharelora.reporting.pictures import require_matplotlib
from sharelora.support.errors import UserError

if TYPE_CHECKING:
    from sharelora.reporting.pictures import Drawn

# Imports inside functions load torch, which takes seconds: help and mistakes must not wait for it.


def _memory_flags(parser: Parser) -> None:
    parser.add_argument("--model", default="llama3-70b", help="a folder, a hub id or a known name")
    parser.add_argument("--ranks", type=positive, nargs="+", default=[8, 16, 32, 64, 128], metavar="R")
    parser.add_argument("--lora_modules", default="all", metavar="NAMES", help="all linear layers, or q_proj,v_proj")
    add_load_flags(parser, bits=4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="where it would run")


def _memory(args: argparse.Namespace) -> Drawn:
    from sharelora.reporting.figures.memory import draw_memory
    from sharelora.tuner.sites import find_sites

    model = meta_model(args.model)
    sites = find_sites(model, parse_modules(args.lora_modules))
    need_of = partial(
        estimate,
        bits=args.bits,
        dtype=args.dtype,
        batch=args.batch,
        tokens=args.tokens,
        optimizer=args.optim,
        device=args.device,
    )
    return draw_memory(model, sites, sorted(set(args.ranks)), args.bits, need_of)


def _adapter_flags(parser: Parser) -> None:
    parser.add_argument("adapters", nargs="+", help="folders of adapters of one base: ours, or plain PEFT LoRA")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="one for each; the folders' names if absent")


def _adapters(args: argparse.Namespace) -> Drawn:
    from sharelora.reporting.figures.adapters import draw_adapters, read_spectra

    names = args.names or [Path(folder).resolve().name for folder in args.adapters]
    if len(names) != len(args.adapters):
        raise UserError(f"found {len(names)} names for {len(args.adapters)} adapters; need one for each; set --names")
    return draw_adapters([read_spectra(folder, name) for folder, name in zip(args.adapters, names, strict=True)])


def _score_flags(parser: Parser) -> None:
    parser.add_argument("paths", nargs="+", help="result files or folders of runs")
    parser.add_argument("--metric", default="eval_loss", metavar="NAME", help="the number to draw")


def _scores(draw: Callable[[list[Experiment], str], Drawn], args: argparse.Namespace) -> Drawn:
    return draw(read_experiments(args.paths), args.metric)


@dataclass(frozen=True)
class Figure:
    """One figure: what it shows, an example, its flags, and what draws it."""

    purpose: str
    example: str
    add_flags: Callable[[Parser], None]
    draw: Callable[[argparse.Namespace], Drawn]


FIGURES = {
    "memory": Figure(
        "memory of training over the rank for LoRA, ShareA, ShareB and ShareAB, estimated",
        "sharelora figures memory --model llama3-70b --bits 4 --out memory",
        _memory_flags,
        _memory,
    ),
    "adapters": Figure(
        "singular values of adapters layer by layer, with effective rank",
        "sharelora figures adapters runs/lora/alpaca runs/share/alpaca --names LoRA ShareA --out values",
        _adapter_flags,
        _adapters,
    ),
    "steps": Figure(
        "a score over the steps of training: mean and standard deviation over seeds",
        "sharelora figures steps runs/* --metric eval_loss --out steps",
        _score_flags,
        partial(_scores, draw_steps),
    ),
    "seeds": Figure(
        "a score of every seed with mean and standard deviation",
        "sharelora figures seeds runs/* --metric mmlu_test_accuracy --out seeds",
        _score_flags,
        partial(_scores, draw_seeds),
    ),
    "parameters": Figure(
        "a score against the number of trained parameters",
        "sharelora figures parameters runs/* --metric mmlu_test_accuracy --out parameters",
        _score_flags,
        partial(_scores, draw_parameters),
    ),
}


def add_figures_flags(parser: Parser) -> None:
    """Add the figure's name; what follows it is read by the figure's own parser."""
    lines = ", ".join(f"{name} ({figure.purpose})" for name, figure in FIGURES.items())
    parser.add_argument("figure", choices=tuple(FIGURES), help=lines)
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="of the figure: sharelora figures FIGURE --help")


def run_figures(args: argparse.Namespace) -> None:
    """Draw a figure, print its numbers and say which files were written."""
    figure = FIGURES[args.figure]
    parser = Parser(f"sharelora figures {args.figure}", figure.purpose, epilog=f"example: {figure.example}")
    figure.add_flags(parser)
    parser.add_argument("--out", default=args.figure, metavar="NAME", help="writes NAME.svg, NAME.png and NAME.md")
    own = parser.parse(args.flags)
    require_matplotlib()
    drawn = figure.draw(own)
    print(drawn.table())
    print(f"wrote {', '.join(map(str, drawn.save(Path(own.out))))}")
