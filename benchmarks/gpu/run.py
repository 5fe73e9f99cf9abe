"""The GPU run: look at the machine, run the sections within the time, and report after each."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu import checks, loss, memory, speed
from benchmarks.gpu.device import clear
from benchmarks.gpu.settings import SECTIONS, Context, Deadline, Section, full_scale, tiny_scale
from benchmarks.harness.command import chosen_names
from benchmarks.harness.report import RESULTS, facts, save
from benchmarks.speed.bases import nf4_layer
from benchmarks.speed.timing import matmul_rate
from benchmarks.speed.variants import VARIANTS
from sharelora.reporting.document import opening
from sharelora.support.errors import UserError
from sharelora.support.files import require_writable

_TINY_RESULTS = Path("runs/benchmarks")


def make_context(args: argparse.Namespace) -> Context:
    """Look at the machine and decide where to run, how large, and where to write.

    Raises:
        UserError: the full size without a GPU.
    """
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type != "cuda" and not args.tiny:
        raise UserError("no GPU that torch can use; the full size needs one; pass --tiny to try it on a CPU")
    out = os.environ.get("OUT")
    folder = args.output or (_TINY_RESULTS if args.tiny else RESULTS)
    folders = (folder, Path(out)) if out else (folder,)
    scale = tiny_scale() if args.tiny else full_scale()
    return Context(device, scale, folders, without_nf4(device))


def without_nf4(device: torch.device) -> str | None:
    """Return why a 4-bit layer cannot be built here, or None: bitsandbytes may be installed and not fit the GPU."""
    try:
        layer = nf4_layer(nn.Linear(64, 64, bias=False), device, torch.bfloat16)
        layer(torch.ones(2, 64, device=device, dtype=torch.bfloat16))
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"no 4-bit layers: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None


def chosen_sections(names: str | None) -> list[Section]:
    """Return the sections to run, in order of importance.

    Raises:
        UserError: an unknown name.
    """
    chosen = chosen_names(names, tuple(section.name for section in SECTIONS), "section")
    return [section for section in SECTIONS if section.name in chosen]


def run_section(context: Context, section: Section, deadline: Deadline) -> dict[str, Any]:
    """Run a section within its share of the time that is left; a crash is reported, the others still run."""
    runners: dict[str, Callable[..., dict[str, Any]]] = {
        "checks": checks.checks,
        "loss": loss.loss,
        "speed": speed.speed,
        "memory": memory.memory,
    }
    began = time.monotonic()
    print(f"{section.title} ({deadline.left:.0f} s left)", file=sys.stderr, flush=True)
    result: dict[str, Any] = {"name": section.name, "kind": section.kind, "title": section.title}
    reason = section.options.get("nf4") and context.without_nf4
    if reason or not deadline.left:
        result["not_run"] = reason or "no time left"
    else:
        try:
            result |= runners[section.kind](context, deadline.part(section.share), **section.options)
        except Exception as error:
            traceback.print_exc()
            result |= {"not_run": f"crashed: {error!r}", "failed": [f"section {section.name}"]}
    clear(context.device)
    return result | {"seconds": round(time.monotonic() - began, 1)}


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    tables = {
        "checks": checks.checks_table,
        "loss": loss.loss_table,
        "speed": speed.speed_table,
        "memory": memory.memory_table,
    }
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    about = "\n".join(f"- `{name}`: {variant.about}" for name, variant in VARIANTS.items())
    parts = [opening(result)]
    if result["settings"]["tiny"]:
        parts.append("**Tiny stand-ins for the shapes named below: this only shows that the script works.**")
    parts.append(f"Settings: {settings}. A large bf16 matrix product: {result['matmul_tflops']:.3g} TFLOP/s.")
    parts.append(about)
    for section in result["sections"]:
        body = f"Not run: {section['not_run']}." if "not_run" in section else tables[section["kind"]](section)
        skipped = f"\n\nSkipped: {'; '.join(section['skipped'])}." if section.get("skipped") else ""
        parts.append(f"## {section['title']}\n\n{body}{skipped}\n\n({section['seconds']} s)")
    return "\n\n".join(parts) + "\n"


def run(args: argparse.Namespace, began: float) -> int:
    """Run, print, write; return 1 if a check failed.

    Args:
        args: the command line.
        began: when the program started, by `time.monotonic`.
    """
    deadline = Deadline(began + args.seconds)
    context, sections = make_context(args), chosen_sections(args.sections)
    for folder in context.folders:
        require_writable(folder)
    scale = context.scale
    settings = {"tiny": args.tiny, "device": str(context.device), "seconds": args.seconds, "r": scale.r}
    settings |= {"tokens": scale.tokens, "dtype": str(scale.dtype), "vocabulary": scale.model.vocab_size}
    result = facts("gpu", settings)
    result["matmul_tflops"] = matmul_rate(context.device, scale.dtype, 256 if args.tiny else 8192)
    # Objects that the imports created need not be looked at when garbage is collected after every variant.
    gc.freeze()
    result["sections"] = []
    for section in sections:
        result["sections"].append(run_section(context, section, deadline))
        # After every section: a run that is killed later leaves what was measured before.
        files = save(context.folders, result, markdown(result))
    print(markdown(result))
    for path in files:
        print(f"wrote {path} and {path.with_suffix('.md').name} in the same folder")
    failed = [name for section in result["sections"] for name in section.get("failed", ())]
    if failed:
        print(f"FAILED: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
