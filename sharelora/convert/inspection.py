"""What an adapter's folder holds: plan, sizes, norms, and whether it is whole."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from sharelora.convert.adapter_file import Adapter, read_adapter
from sharelora.plan.plan import SharingPlan
from sharelora.support.text import size
from sharelora.tuner.config import WEIGHTS_FILE

_FACTS = ("base_model_name_or_path", "trained_on", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora")


@dataclass(frozen=True)
class Report:
    """What `inspect` found; that it exists means that the folder is whole.

    Attributes:
        facts: settings of the adapter worth reading.
        norms: matrix name -> Frobenius norm.
        elements: of all matrices on disk, which equals the plan's trainable parameters.
        other_elements: of heads, biases and magnitudes saved beside them.
        bytes: of the weights' file.
        verified: whether the weights were compared with a checksum; without one only names and shapes were.
    """

    folder: Path
    facts: dict[str, object]
    plan: SharingPlan
    norms: dict[str, float]
    elements: int
    other_elements: int
    bytes: int
    verified: bool

    def _norm_table(self) -> list[str]:
        """A line per kind of matrix: one for each of thousands would say less."""
        kinds: dict[str, list[float]] = defaultdict(list)
        for name, norm in self.norms.items():
            side, *words, _, shape = name.split("/")
            kinds[f"{side} {'.'.join(words)} {shape}"].append(norm)
        width = max(len(kind) for kind in kinds)
        lines = [f"{'norms':<{width}}  {'least':>10}  {'mean':>10}  {'most':>10}"]
        for kind, found in sorted(kinds.items()):
            numbers = (min(found), sum(found) / len(found), max(found))
            lines.append(f"{kind:<{width}}  " + "  ".join(f"{number:10.4g}" for number in numbers))
        return lines

    def table(self) -> str:
        """Return everything as text for people."""
        facts = [f"{name}: {value}" for name, value in self.facts.items()]
        beside = f", and {self.other_elements:,} of heads, biases or magnitudes" if self.other_elements else ""
        how = "checksum verified" if self.verified else "no checksum in it: names and shapes verified"
        file = f"file: {size(self.bytes)}, {self.elements:,} elements of the adapter{beside}; {how}"
        untrained = [name for name, norm in self.norms.items() if norm == 0]
        note = [f"{len(untrained)} matrices are all zero, first {untrained[0]}: untrained"] if untrained else []
        return "\n".join([*facts, file, *note, "", self.plan.table(), "", *self._norm_table()])


def _facts(adapter: Adapter) -> dict[str, object]:
    versions = ", ".join(f"{name} {version}" for name, version in (adapter.config.get("versions") or {}).items())
    found = {name: adapter.config[name] for name in _FACTS if adapter.config.get(name)}
    return {"adapter": adapter.folder, **found, **({"saved with": versions} if versions else {})}


def inspect(folder: str | Path) -> Report:
    """Look into an adapter's folder.

    Raises:
        UserError: no ShareLoRA adapter there, or one that was truncated or altered.
    """
    adapter = read_adapter(folder)
    return Report(
        folder=adapter.folder,
        facts=_facts(adapter),
        plan=adapter.plan,
        norms={name: float(matrix.float().norm()) for name, matrix in adapter.matrices.items()},
        elements=sum(matrix.numel() for matrix in adapter.matrices.values()),
        other_elements=sum(tensor.numel() for tensor in adapter.others.values()),
        bytes=(adapter.folder / WEIGHTS_FILE).stat().st_size,
        verified=adapter.config.get("weights_sha256") is not None,
    )
