"""A share script and its LoRA twin run the same thing but for the sharing flag, so that comparing them is fair."""

from __future__ import annotations

from pathlib import Path

import pytest
from script_commands import SCRIPTS, Command

# LoRA has no groups of layers.
_FILES = (str(file.relative_to(SCRIPTS / "share")) for file in (SCRIPTS / "share").rglob("*.sh"))
SHARED = sorted(name for name in _FILES if "_groups_" not in name)
# The sequence of tasks has flags of its own: test_continual_scripts.py.
TRAINING = [name for name in SHARED if "/" not in name and not name.startswith("continual_")]


def _code(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if not line.startswith("#")]


def _differences(one: list[str], other: list[str]) -> list[tuple[str, str]]:
    assert len(one) == len(other)
    return [(a, b) for a, b in zip(one, other, strict=True) if a != b]


@pytest.mark.parametrize("name", SHARED)
def test_the_files_differ_in_the_sharing_alone(scripts: Path, name: str) -> None:
    [(share, lora)] = _differences(_code(scripts / "share" / name), _code(scripts / "lora" / name))
    assert share.replace("share=a", "share=none") == lora


@pytest.mark.parametrize("tiny", [False, True], ids=["real", "tiny"])
@pytest.mark.parametrize("name", TRAINING)
def test_the_commands_differ_in_the_sharing_and_the_folder_alone(command: Command, name: str, tiny: bool) -> None:
    arguments = ["--tiny"] if tiny else []
    share, lora = command(f"share/{name}", *arguments), command(f"lora/{name}", *arguments)
    differing = {share[share.index(one) - 1]: (one, other) for one, other in _differences(share, lora)}
    assert differing.pop("--share") == ("a", "none")
    # Some GLUE tasks also start from an adapter of their own kind; GPT-2 also decodes and scores.
    assert {"--output_dir"} <= set(differing) <= {"--output_dir", "--lora_path", "--work_dir", "--predictions"}
    for folder, lora_folder in differing.values():
        assert "runs/share/" in folder and folder.replace("runs/share/", "runs/lora/") == lora_folder


@pytest.mark.parametrize("name", [name for name in TRAINING if name.endswith("_full.sh") and "llava" not in name])
def test_full_and_4bit_differ_in_the_precision_and_the_folder_alone(command: Command, name: str) -> None:
    full = command(f"share/{name}")
    four = command(f"share/{name.replace('_full', '_4bit')}")
    added = ["--quant_type", "nf4", "--double_quant", "true"]
    at = four.index("--quant_type")
    assert four[at : at + 4] == added
    folder, bits = _differences(full, four[:at] + four[at + 4 :])
    assert bits == ("16", "4")
    assert folder[0].replace("_full", "_4bit") == folder[1]


EVALUATION = [name for name in SHARED if name.startswith("eval/")]


@pytest.mark.parametrize("name", [name for name in EVALUATION if name.endswith("_full.sh")])
def test_evaluations_of_full_and_4bit_bases_differ_in_the_precision_and_the_folders_alone(
    command: Command, name: str
) -> None:
    pairs = _differences(command(f"share/{name}"), command(f"share/{name.replace('_full', '_4bit')}"))
    assert len(pairs) == 3 and ("16", "4") in pairs
    for full, four in (pair for pair in pairs if pair != ("16", "4")):
        assert "runs/share/" in full and full.replace("_full", "_4bit") == four


@pytest.mark.parametrize("name", EVALUATION)
def test_the_evaluations_differ_in_the_adapter_and_the_folder_alone(command: Command, name: str) -> None:
    pairs = _differences(command(f"share/{name}"), command(f"lora/{name}"))
    assert len(pairs) == 2
    for share, lora in pairs:
        assert share.replace("runs/share/", "runs/lora/") == lora
