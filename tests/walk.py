"""Which files of the library a command passes through: those of which a function ran, imports left out.

    python tests/walk.py -m sharelora plan --model llama3-8b --share a
    python tests/walk.py qlora_share/qlora_share.py --tiny --share a --max_steps 2 --output_dir runs/walk

It runs the command, then writes its functions to stderr in the order of their first call, indented by depth, and how
many files they lie in.
"""

from __future__ import annotations

import atexit
import inspect
import runpy
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = f"{ROOT / 'sharelora'}/"

calls: dict[CodeType, int] = {}  # every function that ran, with the functions of the library that were open around it


def profile(frame: FrameType, event: str, _: Any) -> None:
    """Note a function at its first call; bodies of classes, and whatever an import calls, are no part of the walk."""
    code = frame.f_code
    if event != "call" or code in calls or not code.co_filename.startswith(LIBRARY):
        return
    if not code.co_flags & inspect.CO_OPTIMIZED:  # a module or the body of a class
        return
    depth, caller = 0, frame.f_back
    while caller is not None:
        if caller.f_code.co_filename.startswith(LIBRARY):
            depth += 1
        elif "importlib._bootstrap" in caller.f_code.co_filename:
            return
        caller = caller.f_back
    calls[code] = depth


def report() -> None:
    """Write what ran."""
    sys.setprofile(None)
    names = [(code.co_filename.removeprefix(LIBRARY), code.co_qualname, depth) for code, depth in calls.items()]
    lines = [f"{'  ' * depth}{file} {name}" for file, name, depth in names]
    print(*lines, f"{len({file for file, _, _ in names})} files", sep="\n", file=sys.stderr)


if __name__ == "__main__":
    atexit.register(report)
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(ROOT))
    threading.setprofile(profile)
    sys.setprofile(profile)
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
