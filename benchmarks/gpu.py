"""Train steps of Llama-3-8B shapes on one GPU, with the memory that adapters of LLaMA3-70B take. Started by `gpu.sh`.

Self-contained: random weights made on the device, random tokens, no files read, no network. It takes the time that it
is given (--seconds), measures the most important first, and says what it skipped.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

_TINY_RESULTS = Path("runs/benchmarks")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small shapes; runs on a CPU in less than a minute")
    parser.add_argument("--seconds", type=float, default=450, help="time to use, from the start of this program")
    parser.add_argument("--sections", help="comma-separated; all unless given")
    parser.add_argument("--device", help="cuda or cpu; a GPU if there is one")
    parser.add_argument("--output", type=Path, help="folder for the results (benchmarks/results; with --tiny runs/)")
    return parser.parse_args(argv)


def check_packages() -> None:
    """Refuse a version of PEFT that the library was not made for.

    Raises:
        UserError: PEFT is absent or too old.
    """
    from sharelora.support.errors import UserError

    try:
        found = metadata.version("peft")
    except metadata.PackageNotFoundError:
        found = "none"
    if found == "none" or tuple(map(int, found.split(".")[:2])) < (0, 21):
        raise UserError(f"found peft {found}; need 0.21 or newer; bring its wheel: WHEELS=DIR bash benchmarks/gpu.sh")


def make_context(given: argparse.Namespace) -> Any:
    """Look at the machine and decide where to run, how large, and where to write.

    Raises:
        UserError: the full size without a GPU.
    """
    import torch

    from benchmarks import gpu_settings, report
    from sharelora.support.errors import UserError

    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type != "cuda" and not given.tiny:
        raise UserError("no GPU that torch can use; the full size needs one; pass --tiny to try it on a CPU")
    out = os.environ.get("OUT")
    folder = given.output or (_TINY_RESULTS if given.tiny else report.RESULTS)
    folders = (folder, Path(out)) if out else (folder,)
    scale = gpu_settings.tiny_scale() if given.tiny else gpu_settings.full_scale()
    return gpu_settings.Context(device, scale, folders, without_nf4(device))


def without_nf4(device: Any) -> str | None:
    """Return why a 4-bit layer cannot be made here, None if it can: bitsandbytes may be there and not fit the GPU."""
    import torch
    from torch import nn

    from benchmarks.bases import nf4_layer

    try:
        layer = nf4_layer(nn.Linear(64, 64, bias=False), device, torch.bfloat16)
        layer(torch.ones(2, 64, device=device, dtype=torch.bfloat16))
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"no 4-bit layers: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None


def chosen_sections(names: str | None) -> list[Any]:
    """Return the sections to run.

    Raises:
        UserError: an unknown name.
    """
    from benchmarks.gpu_settings import SECTIONS
    from sharelora.support.errors import UserError

    wanted = names.split(",") if names else [section.name for section in SECTIONS]
    known = {section.name: section for section in SECTIONS}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(f"no section {unknown[0]!r}; need some of {', '.join(known)}; choose with --sections")
    return [section for section in SECTIONS if section.name in wanted]


def run_section(context: Any, section: Any, deadline: Any) -> dict[str, Any]:
    """Run a section within its share of the time that is left; a crash is reported, the others still run."""
    from benchmarks.gpu_checks import checks
    from benchmarks.gpu_memory import memory
    from benchmarks.gpu_speed import clear, speed

    runners: dict[str, Callable[..., dict[str, Any]]] = {"checks": checks, "speed": speed, "memory": memory}
    began = time.monotonic()
    print(f"{section.title} ({deadline.left:.0f} s left)", file=sys.stderr, flush=True)
    found: dict[str, Any] = {"name": section.name, "kind": section.kind, "title": section.title}
    reason = section.options.get("nf4") and context.without_nf4
    if reason or not deadline.left:
        found["not_run"] = reason or "no time left"
    else:
        try:
            found |= runners[section.kind](context, deadline.part(section.share), **section.options)
        except Exception as error:
            traceback.print_exc()
            found |= {"not_run": f"crashed: {error!r}", "failed": [f"section {section.name}"]}
    clear(context.device)
    return found | {"seconds": round(time.monotonic() - began, 1)}


def markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    from benchmarks import report
    from benchmarks.gpu_checks import checks_table
    from benchmarks.gpu_memory import memory_table
    from benchmarks.gpu_speed import speed_table
    from benchmarks.variants import VARIANTS

    tables = {"checks": checks_table, "speed": speed_table, "memory": memory_table}
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    about = "\n".join(f"- `{name}`: {variant.about}" for name, variant in VARIANTS.items())
    parts = [report.heading(result)]
    if result["settings"]["tiny"]:
        parts.append("**Tiny stand-ins for the shapes named below: this shows that the script works, no more.**")
    parts.append(f"Settings: {settings}. A large bf16 matrix product: {result['matmul_tflops']:.3g} TFLOP/s.")
    parts.append(about)
    for section in result["sections"]:
        body = f"Not run: {section['not_run']}." if "not_run" in section else tables[section["kind"]](section)
        skipped = f"\n\nSkipped: {'; '.join(section['skipped'])}." if section.get("skipped") else ""
        parts.append(f"## {section['title']}\n\n{body}{skipped}\n\n({section['seconds']} s)")
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Run, print, write; the exit code is 1 if a check failed."""
    # PEFT asks models for an attribute that transformers has renamed since.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    began, given = time.monotonic(), arguments()
    check_packages()
    from benchmarks import report
    from benchmarks.gpu_settings import Deadline
    from benchmarks.timing import matmul_rate

    deadline = Deadline(began + given.seconds)
    context, sections = make_context(given), chosen_sections(given.sections)
    for folder in context.folders:
        report.require_writable(folder)
    scale = context.scale
    size = {"r": scale.r, "tokens": scale.tokens, "dtype": str(scale.dtype), "vocabulary": scale.model.vocab_size}
    result = report.facts("gpu", {"tiny": given.tiny, "device": str(context.device), "seconds": given.seconds, **size})
    result["matmul_tflops"] = matmul_rate(context.device, scale.dtype, 256 if given.tiny else 8192)
    # Collecting garbage after every variant need not look at what the imports made.
    gc.freeze()
    result["sections"] = []
    for section in sections:
        result["sections"].append(run_section(context, section, deadline))
        # After every section: what is killed later leaves what was measured before.
        files = report.save(context.folders, result, markdown(result))
    print(markdown(result))
    for path in files:
        print(f"wrote {path} and .md beside it")
    failed = [name for section in result["sections"] for name in section.get("failed", ())]
    if failed:
        print(f"FAILED: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    from sharelora.support.errors import run_main

    run_main(main)
