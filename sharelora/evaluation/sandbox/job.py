"""What a sandbox is given over standard input: the code that runs inside, the program, and, behind it, the test.

The code comes compiled, so that nothing of the project has to be visible inside, and nothing is compiled a thousand
times. The parts are separate because they are for different eyes: when the test is read, the program already runs in a
process of its own.
"""

from __future__ import annotations

import functools
import json
import marshal
from dataclasses import asdict
from importlib.resources import files

from sharelora.evaluation.sandbox.limits import Limits
from sharelora.evaluation.sandbox.system_calls import calls_filter

PACKAGE = "sharelora.evaluation.sandbox.inside"
# In an order in which each needs only those before it; the last one has `main`.
MODULES = ("wire", "confine", "worker", "program", "checker")
# What Python is told to do: make modules of the first part, and run the last one.
START = """
import marshal, os, sys, types
for name, code in marshal.loads(os.read(0, int.from_bytes(os.read(0, 8), "little"))):
    sys.modules[name] = module = types.ModuleType(name)
    exec(code, module.__dict__)
module.main()
"""


def make_job(source: str, test: str | None, limits: Limits, user: int | None) -> bytes:
    """Return all that a sandbox reads.

    Args:
        source: the program.
        test: Python that calls it; None if the program is to run to its end and no more.
        user: number of the user that the program becomes; None to stay what it is.
    """
    job = {"source": source, "tested": test is not None, "limits": asdict(limits), "user": user}
    job["filter"] = calls_filter().hex()
    parts = [_code(), json.dumps(job).encode()]
    # A text that is not Unicode (half a surrogate pair) is no Python either; Python itself is to say so.
    parts += [] if test is None else [test.encode("utf-8", "surrogatepass")]
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


@functools.cache
def _code() -> bytes:
    texts = {name: files(PACKAGE).joinpath(f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    compiled = [
        (f"{PACKAGE}.{name}", compile(text, f"<{name}>", "exec", dont_inherit=True)) for name, text in texts.items()
    ]
    return marshal.dumps(compiled)
