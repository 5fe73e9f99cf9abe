"""What the tests of faults share: a worker that runs commands, and what must hold after every fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelora.trainer.checkpoints import checkpoints, damage, find, step_of

ROOT = Path(__file__).resolve().parent.parent.parent
KILLED = -9
ADAPTER = "adapter_model/adapter_model.safetensors"
STATE = "training_state.safetensors"


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code (negative: the signal that killed it) and all that it said."""

    code: int
    log: str


class Worker:
    """Starts runs in children of one process that has everything imported."""

    def __init__(self, folder: Path, *jobs: str) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        self.folder, self.logs = folder, 0
        self.files: dict[int, Path] = {}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("commands_at_fault.py")), *jobs],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def _ask(self, request: dict[str, Any]) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def start(self, words: Sequence[str], more: dict[str, Any] | None = None, **faults: Any) -> int:
        """Start a run; returns its process id. See commands_at_fault.py for what `more` may have."""
        self.logs += 1
        file = self.folder / f"{self.logs}.log"
        pid = self._ask({"words": list(map(str, words)), "log": str(file), "faults": faults, **(more or {})})
        self.files[pid] = file
        return pid

    def wait(self, pid: int) -> Ended:
        """Wait for the end of a run."""
        code = self._ask({"wait": pid})
        return Ended(code, self.log(pid))

    def run(self, words: Sequence[str], **faults: Any) -> Ended:
        """Run to the end."""
        return self.wait(self.start(words, **faults))

    def log(self, pid: int) -> str:
        """What a run has said so far; one that was killed at once has no log yet."""
        file = self.files[pid]
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def last_step(out: Path) -> int:
    """The step of the last whole checkpoint; 0 if there is none."""
    good = find(out).good
    return step_of(good) if good else 0


def nothing_damaged(out: Path) -> None:
    """Every checkpoint that has its name is whole."""
    assert {path.name: damage(path) for path in checkpoints(out) if damage(path)} == {}


def same_end(first: Path, second: Path) -> None:
    """Two finished runs are equal bit by bit: adapter, optimizer and all other state, losses and evaluations."""
    assert (first / ADAPTER).read_bytes() == (second / ADAPTER).read_bytes()
    last = checkpoints(first)[-1].name
    assert (first / last / STATE).read_bytes() == (second / last / STATE).read_bytes()
    assert curve(first) == curve(second)
    found = [measured(out) for out in (first, second)]
    names = [name for name in found[0] if name in ("train_loss", "steps", "tokens", "epochs") or "eval_loss" in name]
    assert len(names) > 3 and {name: found[0][name] for name in names} == {name: found[1].get(name) for name in names}


def measured(out: Path) -> dict[str, Any]:
    """What a run measured; one that was killed after it had saved everything evaluates when it is started again."""
    files = [file for file in (out / "result.json", out / "result_evaluate.json") if file.is_file()]
    return {name: value for file in files for name, value in json.loads(file.read_text())["metrics"].items()}


def curve(out: Path) -> list[dict[str, Any]]:
    """The log of the last checkpoint without what a clock measured."""
    lines = json.loads((checkpoints(out)[-1] / "trainer_state.json").read_text())["log_history"]
    timed = ("second", "runtime", "memory")
    return [{name: value for name, value in line.items() if not any(word in name for word in timed)} for line in lines]
