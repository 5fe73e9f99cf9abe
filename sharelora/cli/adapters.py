"""Commands on adapters as files: `sharelora inspect`, `export`, `merge`, `import` and `compress`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sharelora import convert
from sharelora.cli.plan import MODEL_HELP
from sharelora.flags.parser import Parser, number, positive
from sharelora.flags.ranges import ABOVE_0
from sharelora.flags.sharing import add_sharing_flags, enabled_slices, sharing_of
from sharelora.memory.estimator import BYTES
from sharelora.reporting.pictures import require_matplotlib


def add_inspect_flags(parser: Parser) -> None:
    """Add the flags of `sharelora inspect`."""
    parser.add_argument("adapter", help="folder of the adapter")


def run_inspect(args: argparse.Namespace) -> None:
    """Print what an adapter is made of."""
    print(convert.inspect(args.adapter).table())


def add_export_flags(parser: Parser) -> None:
    """Add the flags of `sharelora export`."""
    parser.add_argument("adapter", help="folder of the adapter")
    parser.add_argument("out", help="folder to write: a plain PEFT LoRA; with --loralib a .safetensors file")
    parser.add_argument(
        "--base", metavar="MODEL", help=f"base model, where the adapter's own is not found: {MODEL_HELP}"
    )
    parser.switch("--loralib", help="write the flat file that loralib reads, the head included")


def run_export(args: argparse.Namespace) -> None:
    """Write an adapter for stock PEFT, or for loralib."""
    if args.loralib:
        flat = convert.export_loralib(args.adapter, args.out, args.base)
        print(f"wrote {flat.file}: {flat.modules} modules, {flat.head} weights of the head; alpha is {flat.alpha:g}")
        return
    done = convert.export_lora(args.adapter, args.out, args.base)
    print(f"wrote {done.folder}: {done.modules} modules of rank {done.rank}, {done.elements:,} elements")


def add_merge_flags(parser: Parser) -> None:
    """Add the flags of `sharelora merge`."""
    parser.add_argument("base", help="folder or hub id of the 16- or 32-bit base model")
    parser.add_argument("adapter", help="folder of the adapter")
    parser.add_argument("out", help="folder to write: a plain model")
    parser.add_argument("--dtype", choices=tuple(BYTES), help="of the merged weights; the base's own if not given")


def run_merge(args: argparse.Namespace) -> None:
    """Write the base with the adapter in its weights."""
    done = convert.merge(args.base, args.adapter, args.out, args.dtype)
    print(f"wrote {done.folder}: {done.changed} of {done.tensors} weights changed")


def add_import_flags(parser: Parser) -> None:
    """Add the flags of `sharelora import`."""
    parser.add_argument("source", help="folder of a plain PEFT LoRA, or a loralib file (.safetensors, .bin, .pt)")
    parser.add_argument("out", help="folder to write: a compact adapter")
    parser.add_argument("--base", metavar="MODEL", help=f"base model, where the source does not name it: {MODEL_HELP}")
    parser.add_argument(
        "--lora_alpha", type=ABOVE_0, metavar="ALPHA", help="of a loralib file, which does not record it"
    )
    add_sharing_flags(parser)


def run_import(args: argparse.Namespace) -> None:
    """Write a plain LoRA as a compact adapter."""
    sharing, enabled = sharing_of(args), enabled_slices(args)
    done = convert.import_lora(args.source, args.out, sharing, args.base, args.lora_alpha, enabled)
    print(f"wrote {done.folder}: {done.sites} sites, {done.elements:,} elements")


def _rank(text: str) -> int | None:
    return None if text == "auto" else positive(text)


def add_compress_flags(parser: Parser) -> None:
    """Add the flags of `sharelora compress`: those of `import`, and the size."""
    add_import_flags(parser)
    size = parser.add_argument_group("size")
    size.add_argument("--rank", type=_rank, metavar="R", help="of shared matrices; auto takes what --energy needs")
    size.add_argument(
        "--energy", type=number, metavar="PART", help="of squared singular values to keep; 0.99 if absent"
    )
    parser.switch("--per_site", help="print a line per site, not per kind of module")
    parser.add_argument("--plot", metavar="NAME", help="draw the singular values: NAME.svg and NAME.png")


def run_compress(args: argparse.Namespace) -> None:
    """Write the nearest adapter that shares, and print its errors."""
    if args.plot:
        require_matplotlib()
    sharing, enabled = sharing_of(args), enabled_slices(args)
    ranks = convert.RankSelection(args.rank, args.energy)
    done = convert.compress(args.source, args.out, sharing, ranks, args.base, args.lora_alpha, enabled)
    print(done.table(args.per_site))
    if args.plot:
        from sharelora.reporting.figures.adapters import draw_spectra  # torch takes seconds to load

        files = draw_spectra(done.spectra, done.ranks, Path(args.plot))
        print(f"wrote {' and '.join(map(str, files))}" if files else "no matrix was refitted, so nothing is drawn")
