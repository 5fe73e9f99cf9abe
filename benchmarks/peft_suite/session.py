"""One run of PEFT's tests, in a process of its own, with its outcomes line by line in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.report import ROOT
from benchmarks.peft_suite.source import prepare_packages, prepare_tests
from sharelora.support.errors import UserError

# Modules in which LoRA's configuration appears and that need neither a GPU nor a published model.
MODULES = (
    "custom_models", "decoder_models", "encoder_decoder_models", "feature_extraction_models", "seq_classifier",
    "initialization", "tuners_utils", "mixed", "low_level_api", "lora_variants", "lora_conversion", "lora_ga",
    "lora_intruders", "lorafa", "loraplus", "riemannian_lora", "target_parameters", "trainable_tokens", "velora",
    "bdlora", "arrow", "xlora", "config", "helpers", "other", "mapping", "auto", "integrations", "vision_models",
    "token_classification_qa", "hub_features", "poly",
)  # fmt: skip
SECONDS = 300  # for one test
LORA = "lora"  # the run that the others are compared with


@dataclass(frozen=True)
class Outcome:
    """What became of a test.

    Attributes:
        test: its name in pytest.
        result: `passed`, `failed`, `skipped` or `expected` (a failure that the test itself announces).
        about_lora: whether it has or makes a configuration of the adapters that are judged.
        seconds: how long it took.
        errors: class and message of the errors that ended it, the last one first.
    """

    test: str
    result: str
    about_lora: bool
    seconds: float
    errors: tuple[tuple[str, str], ...]


class Session:
    """PEFT's tests in a folder, ready to run.

    Args:
        folder: for the tests, the models and the outcomes.
        jobs: processes.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.jobs = folder, jobs
        self.root, self.packages = prepare_tests(folder), prepare_packages(folder)
        self.hub = folder / "hub"

    def file(self, name: str) -> Path:
        """Return the file of the outcomes of a run."""
        return self.folder / f"outcomes-{name}.jsonl"

    def has(self, name: str) -> bool:
        """Return whether a run has left its outcomes."""
        return self.file(name).is_file()

    def run(self, name: str, across: str, modules: Sequence[str], only: Iterable[str] | None = None) -> None:
        """Run the tests; the outcomes of an earlier run of that name are replaced.

        Args:
            name: `lora` or a value of `ShareLoraConfig.share`.
            across: a value of `ShareLoraConfig.share_across`.
            modules: names of test modules.
            only: the tests to run; all unless given.

        Raises:
            UserError: pytest could not run them.
        """
        partial = self.file(name).with_suffix(".part")
        partial.unlink(missing_ok=True)
        flags = ["--share", name, "--across", across, "--outcomes", str(partial)]
        if only is not None:
            names = self.folder / f"only-{name}.txt"
            names.write_text("\n".join(only), encoding="utf-8")
            flags += ["--only", str(names)]
        with (self.folder / f"log-{name}.txt").open("w", encoding="utf-8") as log:
            done = subprocess.run([*self._pytest(modules), *flags], cwd=self.root, env=self._environment(), stdout=log)
        # 0 and 1: all passed, some failed.
        if done.returncode not in (0, 1) or not partial.is_file():
            raise UserError(f"pytest ended with {done.returncode}; need a whole run; see {log.name}")
        partial.replace(self.file(name))

    def read(self, name: str) -> list[Outcome]:
        """Return what an earlier run left.

        Raises:
            UserError: there was none.
        """
        if not self.has(name):
            raise UserError(f"found no outcomes of {name} in {self.folder}; need a run; leave out --judge")
        with self.file(name).open(encoding="utf-8") as lines:
            return outcomes(lines)

    def _pytest(self, modules: Sequence[str]) -> list[str]:
        files = [f"tests/test_{module}.py" for module in modules]
        workers = ["-n", str(self.jobs), "--dist", "worksteal"] if self.jobs > 1 else []
        plugins = ["-p", "no:cacheprovider", "-p", "benchmarks.peft_suite.plugin"]
        return [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--timeout={SECONDS}", *plugins, *workers, *files]

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.root), str(ROOT), str(self.packages)])
        settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        return {**os.environ, "PYTHONPATH": path, "HF_HUB_CACHE": str(self.hub), **settings}


def outcomes(lines: Iterable[str]) -> list[Outcome]:
    """Join the phases of each test: it passed if all did, and failed if one did."""
    phases: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        row = json.loads(line)
        phases.setdefault(row["test"], []).append(row)
    return [_joined(test, rows) for test, rows in phases.items()]


def _joined(test: str, rows: list[dict[str, Any]]) -> Outcome:
    results = [str(row["outcome"]) for row in rows]
    result = next((r for r in ("failed", "expected", "skipped") if r in results), "passed")
    errors = next((row.get("errors", ()) for row in rows if row["outcome"] == "failed"), ())
    seconds = sum(row["seconds"] for row in rows)
    about = any(bool(row.get("about_lora")) for row in rows)
    return Outcome(test, result, about, round(seconds, 3), tuple((e[0], e[1]) for e in errors))
