"""Inspection of an adapter's folder: plan, sizes, norms, and whether it is complete."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from sharelora.convert.adapter_file import read_adapter
from sharelora.plan.plan import SharingPlan
from sharelora.support.text import columns, size
from sharelora.tuner.files import WEIGHTS_FILE

_FACTS = ("base_model_name_or_path", "trained_on", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora")


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found; that it exists means that the folder is complete.

    Attributes:
        facts: settings of the adapter worth reading.
        plan: which sites use which matrices.
        norms: matrix name -> Frobenius norm.
        elements: of all matrices on disk, which equals the plan's trainable parameters.
        other_elements: of heads, biases and magnitudes.
        bytes: of the weights' file.
        verified: whether the weights were compared with a checksum; without one only names and shapes were.
    """

    facts: dict[str, object]
    plan: SharingPlan
    norms: dict[str, float]
    elements: int
    other_elements: int
    bytes: int
    verified: bool

    def table(self) -> str:
        """Return everything as text for people."""
        facts = [f"{name}: {value}" for name, value in self.facts.items()]
        others = f", and {self.other_elements:,} of heads, biases or magnitudes" if self.other_elements else ""
        proof = "checksum verified" if self.verified else "no checksum in it: names and shapes verified"
        file = f"file: {size(self.bytes)}, {self.elements:,} elements of the adapter{others}; {proof}"
        untrained = [name for name, norm in self.norms.items() if norm == 0]
        note = [f"{len(untrained)} matrices are all zero, first {untrained[0]}: untrained"] if untrained else []
        # A line per kind of matrix: one for each of thousands would say less.
        kinds: dict[str, list[float]] = defaultdict(list)
        for name, norm in self.norms.items():
            side, *words, _, shape = name.split("/")
            kinds[f"{side} {'.'.join(words)} {shape}"].append(norm)
        rows = [("norms", "least", "mean", "most")]
        for kind, norms in sorted(kinds.items()):
            least, mean, most = min(norms), sum(norms) / len(norms), max(norms)
            rows.append((kind, f"{least:.4g}", f"{mean:.4g}", f"{most:.4g}"))
        return "\n".join([*facts, file, *note, "", self.plan.table(), "", *columns(rows)])


def inspect(folder: str | Path) -> Inspection:
    """Look into an adapter's folder.

    Raises:
        UserError: no ShareLoRA adapter there, or one that was truncated or altered.
    """
    adapter = read_adapter(folder)
    facts: dict[str, object] = {"adapter": adapter.folder}
    facts |= {name: adapter.config[name] for name in _FACTS if adapter.config.get(name)}
    versions = adapter.config.get("versions")
    if versions:
        facts["saved with"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Inspection(
        facts=facts,
        plan=adapter.plan,
        norms={name: float(matrix.float().norm()) for name, matrix in adapter.matrices.items()},
        elements=sum(matrix.numel() for matrix in adapter.matrices.values()),
        other_elements=sum(tensor.numel() for tensor in adapter.others.values()),
        bytes=(adapter.folder / WEIGHTS_FILE).stat().st_size,
        verified=adapter.config.get("weights_sha256") is not None,
    )
