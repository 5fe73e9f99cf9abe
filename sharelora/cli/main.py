"""The `sharelora` command: plan, estimate, similarity, groups, compress, figures, ablate, and what files need."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sharelora import convert
from sharelora.cli import figures, similarity
from sharelora.cli.budget import add_budget_flags, budget_from, plans_within
from sharelora.flags.parser import Parser, positive
from sharelora.flags.sharing import adapter_settings, add_share_flags, add_sharing_flags, enabled_slices, sharing_of
from sharelora.memory.estimate import BYTES, FACTORED, STATES, estimate
from sharelora.memory.machine import machine
from sharelora.models.known import meta_model
from sharelora.reporting.compare import compare
from sharelora.reporting.figures.adapters import draw_spectra
from sharelora.reporting.pictures import require_matplotlib
from sharelora.support.errors import UserError, run_main
from sharelora.support.files import write_json

MODEL = "a folder, a hub id, or a known name such as llama3-8b, roberta-base, gpt2-medium"


def _plan_flags(parser: Parser) -> None:
    parser.add_argument("--model", required=True, help=MODEL)
    add_share_flags(parser)
    add_budget_flags(parser)
    parser.add_argument(
        "--json", metavar="FILE", help="also write the plan (the recommended one) to a file for --share_plan"
    )


def _plan(args: argparse.Namespace) -> None:
    budget = budget_from(args)
    model = meta_model(args.model)
    settings = adapter_settings(args).confined_to_language(model)
    if budget is None:
        plan = settings.plan(model)
        print(plan.table())
    else:
        text, plan = plans_within(args, settings, model, budget)
        print(text)
    if args.json:
        write_json(args.json, plan.to_json())


def _estimate_flags(parser: Parser) -> None:
    parser.add_argument("--model", required=True, help=MODEL)
    add_share_flags(parser)
    load = parser.add_argument_group("training")
    load.add_argument("--bits", type=int, choices=(4, 8, 16, 32), default=16, help="precision of the base")
    load.add_argument("--dtype", choices=tuple(BYTES), default="bf16", help="of activations")
    load.add_argument("--batch", type=positive, default=1, help="examples per forward pass")
    load.add_argument("--tokens", type=positive, default=512, help="tokens of the longest example")
    load.add_argument("--eval_batch", type=positive, help="examples per forward pass of evaluations; none unless given")
    load.add_argument("--optim", choices=(*STATES, FACTORED), default="adamw_torch", metavar="NAME", help="optimizer")
    load.add_argument("--device", choices=("cpu", "cuda"), help="where it would run; a GPU if there is one")
    parser.switch("--no_checkpointing", help="keep all activations instead of computing them again")
    parser.add_argument("--output_dir", default=".", metavar="DIR", help="folder whose disk is looked at")


def _estimate(args: argparse.Namespace) -> None:
    model = meta_model(args.model)
    settings = adapter_settings(args).confined_to_language(model)
    there = machine(args.output_dir)
    need = estimate(
        model,
        settings.plan(model),
        args.bits,
        args.dtype,
        args.batch,
        args.tokens,
        args.optim,
        not args.no_checkpointing,
        lora_dropout=settings.dropout,
        eval_batch=args.eval_batch or 0,
        device=args.device or there.device,
    )
    print(need.table())
    print(need.verdict(there))


def _inspect_flags(parser: Parser) -> None:
    parser.add_argument("adapter", help="folder of the adapter")


def _inspect(args: argparse.Namespace) -> None:
    print(convert.inspect(args.adapter).table())


def _export_flags(parser: Parser) -> None:
    parser.add_argument("adapter", help="folder of the adapter")
    parser.add_argument("out", help="folder to write: a plain PEFT LoRA; with --loralib a .safetensors file")
    parser.switch("--loralib", help="write the flat file that loralib reads, the head included")


def _export(args: argparse.Namespace) -> None:
    if args.loralib:
        flat = convert.export_loralib(args.adapter, args.out)
        print(f"wrote {flat.file}: {flat.modules} modules, {flat.head} weights of the head; alpha is {flat.alpha:g}")
        return
    done = convert.export_lora(args.adapter, args.out)
    print(f"wrote {done.folder}: {done.modules} modules of rank {done.rank}, {done.elements:,} elements")


def _merge_flags(parser: Parser) -> None:
    parser.add_argument("base", help="folder or hub id of the 16- or 32-bit base model")
    parser.add_argument("adapter", help="folder of the adapter")
    parser.add_argument("out", help="folder to write: a plain model")
    parser.add_argument("--dtype", choices=tuple(BYTES), help="of the merged weights; the base's own if not given")


def _merge(args: argparse.Namespace) -> None:
    done = convert.merge(args.base, args.adapter, args.out, args.dtype)
    print(f"wrote {done.folder}: {done.changed} of {done.tensors} weights changed")


def _source_flags(parser: Parser) -> None:
    parser.add_argument("source", help="folder of a plain PEFT LoRA, or a loralib file (.safetensors, .bin, .pt)")
    parser.add_argument("out", help="folder to write: a compact adapter")
    parser.add_argument("--base", metavar="MODEL", help=f"base model, where the source does not name it: {MODEL}")
    parser.add_argument("--lora_alpha", type=float, metavar="ALPHA", help="of a loralib file, which does not say it")
    add_sharing_flags(parser)


def _import(args: argparse.Namespace) -> None:
    sharing, enabled = sharing_of(args), enabled_slices(args)
    done = convert.import_lora(args.source, args.out, sharing, args.base, args.lora_alpha, enabled)
    print(f"wrote {done.folder}: {done.sites} sites, {done.elements:,} elements")


def _rank(text: str) -> int | None:
    return None if text == "auto" else positive(text)


def _compress_flags(parser: Parser) -> None:
    _source_flags(parser)
    size = parser.add_argument_group("size")
    size.add_argument("--rank", type=_rank, metavar="R", help="of shared matrices; auto takes what --energy needs")
    size.add_argument("--energy", type=float, metavar="PART", help="of squared singular values to keep; 0.99 if absent")
    parser.switch("--per_site", help="print a line per site, not per kind of module")
    parser.add_argument("--plot", metavar="NAME", help="draw the singular values: NAME.svg and NAME.png")


def _compress(args: argparse.Namespace) -> None:
    if args.plot:
        require_matplotlib()
    sharing, enabled = sharing_of(args), enabled_slices(args)
    size = convert.Size(args.rank, args.energy)
    done = convert.compress(args.source, args.out, sharing, size, args.base, args.lora_alpha, enabled)
    print(done.table(args.per_site))
    if args.plot:
        files = draw_spectra(done.spectra, done.ranks, Path(args.plot))
        print(f"wrote {' and '.join(map(str, files))}" if files else "no matrix was fitted anew, so nothing is drawn")


def _compare_flags(parser: Parser) -> None:
    parser.add_argument("paths", nargs="+", help="result files or folders of runs, ours and upstream's")
    parser.switch("--by_seed", help="one row for runs that differ only in the seed: mean ± standard deviation")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="which metrics to show")
    parser.switch("--markdown", help="write a Markdown table")


def _compare(args: argparse.Namespace) -> None:
    print(compare(args.paths, args.by_seed, args.metrics, args.markdown))


def _ablate_flags(parser: Parser) -> None:
    parser.add_argument("grid", help="YAML file: flags of all runs, seeds, and what is varied")
    parser.add_argument(
        "--output", default="runs/ablation", metavar="DIR", help="a folder for each run, and the tables"
    )
    parser.add_argument("--only", choices=("plan", "table"), help="print the runs, or the tables of what has ended")


def _ablate(args: argparse.Namespace) -> None:
    # What trains takes seconds to load.
    from sharelora.trainer.signals import ending
    from sharelora.training.ablation.command import ablate

    # A training must not go on alone when this process is ended: the next call would train in the same folder.
    with ending():
        ablate(args.grid, args.output, args.only)


@dataclass(frozen=True)
class Command:
    """One subcommand: what it does in a line, an example, its flags, and what it runs."""

    purpose: str
    example: str
    add_flags: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], None]


COMMANDS = {
    "plan": Command(
        "print which matrices a model's adapters use and share, with exact counts; no weights are read",
        "sharelora plan --model llama3-8b --lora_modules all --share a --lora_r 64",
        _plan_flags,
        _plan,
    ),
    "estimate": Command(
        "print the memory that training would take, against what this machine has",
        "sharelora estimate --model llama3-8b --share a --bits 4 --batch 1 --tokens 1024",
        _estimate_flags,
        _estimate,
    ),
    "similarity": Command(
        "measure how similar a model's layers are, and group those that may share",
        "sharelora similarity --model DIR --sample texts.txt --output runs/similarity",
        similarity.add_flags,
        similarity.run,
    ),
    "groups": Command(
        "group the layers of measured similarities by another threshold, number or method",
        "sharelora groups runs/similarity/similarity.json --grouping optimal --distinct_layers 20",
        similarity.add_group_flags,
        similarity.run_groups,
    ),
    "inspect": Command(
        "look into an adapter: plan, sizes, norms, and whether it is whole",
        "sharelora inspect runs/alpaca/adapter",
        _inspect_flags,
        _inspect,
    ),
    "export": Command(
        "write an adapter as a plain PEFT LoRA, which stock PEFT and servers read",
        "sharelora export runs/alpaca/adapter plain_lora",
        _export_flags,
        _export,
    ),
    "merge": Command(
        "write a plain model: the base with the adapter in its weights",
        "sharelora merge models/llama3-8b runs/alpaca/adapter merged",
        _merge_flags,
        _merge,
    ),
    "import": Command(
        "take over a plain LoRA whose matrices already agree with a sharing plan",
        "sharelora import plain_lora compact --base models/llama3-8b --share a",
        _source_flags,
        _import,
    ),
    "compress": Command(
        "turn a LoRA into the nearest one that shares its matrices, and say how near",
        "sharelora compress plain_lora compact --base models/llama3-8b --share a --energy 0.99",
        _compress_flags,
        _compress,
    ),
    "compare": Command(
        "print runs side by side, ours and upstream's",
        "sharelora compare runs/* --by_seed",
        _compare_flags,
        _compare,
    ),
    "figures": Command(
        "draw the papers' figures from results, adapters or estimates",
        "sharelora figures memory --model llama3-70b --bits 4 --out memory",
        figures.add_flags,
        figures.run,
    ),
    "ablate": Command(
        "train a grid of settings, the cheapest first, and draw what each changes",
        "sharelora ablate scripts/ablation/rank.yaml --output runs/rank",
        _ablate_flags,
        _ablate,
    ),
}


def _usage() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {command.purpose}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: sharelora COMMAND ...   (sharelora COMMAND --help for its flags)", "", *lines])


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
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"found command {words[0]!r}; need one of {', '.join(COMMANDS)}{hint}")
    command = COMMANDS[words[0]]
    parser = Parser(f"sharelora {words[0]}", command.purpose, epilog=f"example: {command.example}")
    command.add_flags(parser)
    command.run(parser.parse(words[1:]))
    return 0


def entry() -> NoReturn:
    """Run as a program: bad input ends with one line and exit code 2."""
    run_main(main)


if __name__ == "__main__":
    entry()
